"""Applying a recipe: edits, calibration, training against the teacher, final edits; the same for all techniques."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from lissom.console import note
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import KeepVocabulary, SparseWeights
from lissom.parallel.world import World
from lissom.training.config import RecoveryParams
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.loop import TrainingResult, precision_name
from lissom.training.losses import against_teacher
from lissom.training.recipe import Recipe
from lissom.training.sparsity import KeepZeros, zeros_of
from lissom.training.teacher import Renumbered, Teacher


@dataclass(frozen=True)
class CompressionResult:
    """Result of applying a recipe; the model itself is changed in place."""

    metrics: dict[str, Any]
    training: TrainingResult | None
    """None if the recipe was applied without a training."""


def compress(
    model: CompressedModel,
    recipe: Recipe,
    lesson: Lesson,
    teacher: Teacher,
    training: RecoveryParams | None,
    *,
    phase: str = "training",
    identity: str = "",
) -> CompressionResult:
    """Apply a recipe to `model`, in place.

    Args:
        model: the model to compress.
        recipe: the recipe, from a technique's `plan`.
        lesson: the texts; train and transfer examples are numbered as in the teacher's data.
        teacher: cached or live logits.
        training: params of the training of the edited model against the teacher; None skips it.
        phase: name of the training within the stage.
        identity: whatever else determines the training, such as the technique's params.

    Raises:
        InputError: an edit does not fit the model, or low-rank adapters would fill the zeros of its weights.
    """
    if recipe.needs_whole and lesson.world is not None:
        lesson = replace(lesson, world=_with_whole_networks(lesson.world))
    model.edit(recipe.edits)
    if recipe.calibrate is not None:
        recipe.calibrate(model)
    scorer = lesson.scorer(model, training or RecoveryParams())
    metrics: dict[str, Any] = {"dev_score_before_training": scorer()}
    result = None
    if training is not None:
        objective = against_teacher(_with_tokens_of(model, teacher), training.loss, model.manifest.task)
        objective = objective.with_terms(recipe.terms).with_penalty(recipe.penalty)
        data, hooks = lesson.texts(model), [*_kept_zeros(model, training), *recipe.hooks]
        for number in range(1, recipe.trainings + 1):
            latest = lesson.train(
                phase if recipe.trainings == 1 else f"{phase}-{number}", model.network, data, model.pad_id, objective,
                training, identity=identity, score=scorer, hooks=hooks, rates=recipe.rates,
            )  # fmt: skip
            result = latest if result is None else _joined(result, latest)
            if number < recipe.trainings and recipe.between is not None:
                recipe.between(model, number)
        assert result is not None
        metrics |= {
            "steps": result.steps,
            "examples_per_second": result.examples_per_second,
            "precision": precision_name(training),
        }
    after = () if recipe.finish is None else tuple(recipe.finish(model))
    if after:
        model.edit(after)
    _tell_zeros(model)
    if after:
        scorer = lesson.scorer(model, training or RecoveryParams())
    is_best = result is not None and not after and training is not None and training.keep == "best"
    metrics["dev_score"] = result.best_score if result is not None and is_best else scorer()
    return CompressionResult({**metrics, **recipe.facts}, result)


def _with_whole_networks(world: World) -> World:
    """Return the processes as replicas, each of which has the whole network."""
    params = world.params
    if params.tensor == params.pipeline == 1 and not params.shard:
        return world
    whole = {"data": params.world, "tensor": 1, "pipeline": 1, "shard": False, "sequence": False, "schedule": "1f1b"}
    params = params.model_copy(update=whole)
    note(f"parallel: the method looks at all weights in every step: here it is {params.factors}")
    return replace(world, params=params)


def _tell_zeros(model: CompressedModel) -> None:
    """Update the share of zeros in the manifest's last sparse edit; earlier ones keep the share of their time."""
    edits = list(model.manifest.edits)
    place = next((place for place in reversed(range(len(edits))) if isinstance(edits[place], SparseWeights)), None)
    if place is not None:
        edits[place] = edits[place].model_copy(update={"sparsity": zeros_of(model.network)})
        model.manifest = model.manifest.model_copy(update={"edits": tuple(edits)})


def _with_tokens_of(model: CompressedModel, teacher: Teacher) -> Teacher:
    """Return the teacher with the tokens of a model that predicts tokens, of which edits may have left some."""
    edits = [edit for edit in model.manifest.edits if isinstance(edit, KeepVocabulary)]
    if not edits or not (model.manifest.task.continues_texts or model.manifest.task.writes_texts):
        return teacher
    old_ids = torch.arange(model.manifest.base_config["vocab_size"])
    new_ids = torch.full_like(old_ids, -1)
    for edit in edits:
        old_ids = old_ids[list(edit.kept)]
    new_ids[old_ids] = torch.arange(len(old_ids))
    return Renumbered(teacher, new_ids)


def _joined(first: TrainingResult, second: TrainingResult) -> TrainingResult:
    """Return two trainings as one, whose result is the second's."""
    records = [{**record, "step": record["step"] + first.steps} for record in second.records]
    return replace(second, steps=first.steps + second.steps, records=[*first.records, *records])


def _kept_zeros(model: CompressedModel, training: RecoveryParams) -> list[Hook]:
    """Return the hook that keeps the zeros of a sparse model."""
    if not any(isinstance(edit, SparseWeights) for edit in model.manifest.edits):
        return []
    if training.lora is not None:
        raise InputError("training.lora: adapters would fill the zeros of this sparse model's weights; set it to null")
    return [KeepZeros()]
