"""Recipes for models of a user's: all sections of the params but `base` and `data`, fitted to the model's shape."""

import math
from typing import TYPE_CHECKING, Any

import yaml

from lissom.data.config import PER_TOKEN, UNLABELLED_TASKS, WRITTEN, TaskKind
from lissom.pipelines.init import template

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_UPDATES = {"teacher": 600, "distill": 1500, "prune": 600, "factorize": 600, "quantize": 300}
"""A training on little data lasts longer than the shipped epochs, until it has done so many updates."""
_MOST_EPOCHS = 10.0
_MAX_DEV_DROP = 0.02
"""A student that loses more is made of more blocks: the gate allows 0.05 for all steps together."""
_EXACT = {"temperature": 1, "alpha": 1}
"""The loss against a cached distribution over tokens, which is exact at this temperature alone."""


def recipe_for(task: TaskKind, config: "PreTrainedConfig", rows: int) -> dict[str, Any]:
    """Return the recipe for a task.

    Args:
        task: the task.
        config: the model's config.
        rows: number of training rows; 0 if it is not known.
    """
    recipe: dict[str, Any] = yaml.safe_load(template("params.yaml"))
    if task in UNLABELLED_TASKS:
        _write_on(recipe, config)
    elif task in WRITTEN:
        _translate(recipe, config)
    else:
        _label(recipe, config, task)
    if rows and task not in UNLABELLED_TASKS:  # a row of texts alone may be a word or a book
        for section, updates in _UPDATES.items():
            training = recipe[section] if section == "teacher" else recipe[section].get("training")
            if training is not None:
                epochs = updates * training.get("batch_size", 32) / rows
                training["epochs"] = round(min(_MOST_EPOCHS, max(training["epochs"], epochs)), 2)
    return {name: value for name, value in recipe.items() if name not in ("base", "data")}


def _label(recipe: dict[str, Any], config: "PreTrainedConfig", task: TaskKind) -> None:
    recipe["distill"]["blocks"] = _spread(config.num_hidden_layers, 1 / 2)
    recipe["distill"]["max_dev_drop"] = _MAX_DEV_DROP
    recipe["factorize"]["rank"] = min(recipe["factorize"]["rank"], max(1, config.hidden_size // 3))
    if task in PER_TOKEN:
        recipe["factorize"]["min_count"] = None


def _write_on(recipe: dict[str, Any], config: "PreTrainedConfig") -> None:
    """Change the recipe to that of params/language_model.yaml."""
    small = {"batch_size": 8, "loss": _EXACT}
    recipe["teacher"] = {"epochs": 2, "batch_size": 8, "learning_rate": 5.0e-5}
    recipe["distill"] = {
        "method": "logits", "blocks": _spread(config.num_hidden_layers, 2 / 3),
        "training": {"epochs": 3, "learning_rate": 2.0e-4, **small},
    }  # fmt: skip
    _prune_and_round(recipe, small)
    recipe["export"] |= {"int8_tolerance": 4, "label_agreement": 0.9}
    recipe["gates"] |= {"max_score_drop": 0.5, "min_speedup": {}}


def _translate(recipe: dict[str, Any], config: "PreTrainedConfig") -> None:
    """Change the recipe to that of params/translation.yaml, with the learning rates of a model that translates."""
    decoder_blocks = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    recipe["teacher"] = {"epochs": 1, "learning_rate": 2.0e-5}
    recipe["distill"] = {
        "method": "sequence", "blocks": _spread(config.num_hidden_layers, 1 / 2),
        "decoder_blocks": _spread(decoder_blocks, 1 / 2), "training": {"epochs": 3, "learning_rate": 2.0e-4},
    }  # fmt: skip
    _prune_and_round(recipe, {"loss": {"temperature": 1}})
    recipe["gates"] |= {"min_speedup": {"onnx": 1.5}}


def _prune_and_round(recipe: dict[str, Any], training: dict[str, Any]) -> None:
    """Set the steps after distillation of a model that writes; `training` is what their trainings have in common."""
    recipe["prune"] = {
        "method": "first_order", "heads": 1, "neurons": 0.75,
        "training": {"epochs": 1, "learning_rate": 1.0e-4, **training},
    }  # fmt: skip
    recipe["factorize"] = {"method": "none"}
    recipe["quantize"] = {"method": "int8", "training": {"epochs": 0.5, "learning_rate": 2.0e-5, **training}}


def _spread(blocks: int, share: float) -> list[int]:
    """Return the numbers of a share of some blocks, evenly spaced, the first and the last among them."""
    kept = max(1, math.ceil(blocks * share))
    return [number * (blocks - 1) // max(1, kept - 1) for number in range(kept)]
