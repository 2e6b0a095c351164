"""What structured pruning costs: accuracy while heads go, without a training; and the speed of what is left, pinned."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.teachers import Trained
from benchmarks.timing import PINNED, time_in_turn
from lissom.data.batches import sorted_batches
from lissom.evaluate.variant import timed_batches
from lissom.export.onnx import export_onnx
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load
from lissom.models.edits import KeepHeads
from lissom.models.sites import attention_sites, head_size
from lissom.prune.first_order import select
from lissom.prune.importance import head_importance
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson

IMPORTANCE, IN_ROUNDS, RANDOM = "heads, by importance", "heads, by importance in rounds", "heads, at random"
ORDERS = (IMPORTANCE, IN_ROUNDS, RANDOM)
STRUCTURES: dict[str, dict[str, Any]] = {
    "first order, 50 %": {"method": "first_order"},
    "first order in rounds, 50 %": {"method": "first_order", "rounds": 5},
    "gates, 50 %": {"method": "gates"},
    "blocks, 50 %": {"method": "blocks", "blocks": 3},
    "first order, 25 %": {"method": "first_order", "heads": 0.25, "neurons": 0.25},
    "gates, 25 %": {"method": "gates", "keep": 0.25},
    "gates, 12 %": {"method": "gates", "keep": 0.12},
    "gates and layers, 25 %": {"method": "gates", "keep": 0.25, "layer_distillation": 1.0},
    "gates and layers, 12 %": {"method": "gates", "keep": 0.12, "layer_distillation": 1.0},
    "blocks, 33 %": {"method": "blocks", "blocks": 2},
    "gates on heads, penalty 0.3": {"method": "gates", "units": ["heads"], "keep": None, "penalty": 0.3},
    "gates on heads, penalty 1": {"method": "gates", "units": ["heads"], "keep": None, "penalty": 1.0},
    "gates on heads, penalty 3": {"method": "gates", "units": ["heads"], "keep": None, "penalty": 3.0},
}
"""Methods whose result is trained like all others; shares are of the parameters of attentions and feed-forward networks."""
PERCENT = range(10, 100, 10)
_DRAWS, _CALIBRATION, _CALIBRATION_BATCH = 3, 512, 32
_SECONDS, _BATCH = 5.0, 1


def measure_order(teacher: Trained, order: str, seed: int) -> dict[str, Any]:
    """Return the accuracy on test after every tenth of the heads, and how many go for a point."""
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(tables=teacher.tables(), scratch=Path(scratch))
        draws = [
            _accuracies(teacher.folder / "model", lesson, order, seed * _DRAWS + draw)
            for draw in range(_DRAWS if order == RANDOM else 1)
        ]
    means = {percent: sum(draw[percent] for draw in draws) / len(draws) for percent in PERCENT}
    removed = 0
    for percent in PERCENT:
        if means[percent] < 100 * teacher.accuracy - 1:
            break
        removed = percent
    return {"teacher_percent": 100 * teacher.accuracy, "heads_removed_at_1pct": removed / 100, **figures_of(means)}


def figures_of(accuracies: Mapping[int, float]) -> dict[str, float]:
    """Return a row's figures of a curve: accuracies by percent removed."""
    return {f"accuracy_percent_{percent}": value for percent, value in accuracies.items()}


def _accuracies(folder: Path, lesson: Lesson, order: str, draw: int) -> dict[int, float]:
    """Return the accuracy by percent of heads removed."""
    model, result = load(folder), {}
    data = lesson.texts(model)
    batches = list(sorted_batches(data, _CALIBRATION_BATCH, model.pad_id, data.labelled(_CALIBRATION)))
    loss, generator = model.manifest.task.loss, torch.Generator().manual_seed(draw)
    if order == RANDOM:
        width = head_size(model.network)
        heads = [model.network.get_submodule(site.key).out_features // width for site in attention_sites(model.network)]
        scores = [torch.rand(count, generator=generator) for count in heads]
    elif order == IMPORTANCE:
        scores = head_importance(model.network, batches, loss)
    for percent in PERCENT:
        share = (100 - percent) / 100
        if order == IN_ROUNDS:  # of those that are left
            share /= (110 - percent) / 100
            scores = head_importance(model.network, batches, loss)
        else:
            model = load(folder)
        model.edit([KeepHeads(kept=select(scores, share, 1, uniform=False))])
        result[percent] = accuracy(model, lesson)
    return result


def accuracy(model: CompressedModel, lesson: Lesson) -> float:
    """Return the accuracy on test in percent."""
    test = Lesson(tables={**lesson.tables, "dev": lesson.tables["test"]}, scratch=lesson.scratch)
    return 100 * test.scorer(model, TrainingParams(precision="float32"))()


def measure_speed(model: CompressedModel, teacher: Trained, lesson: Lesson, scratch: Path) -> dict[str, Any]:
    """Return how many times faster than the teacher the exported model answers one text, both in one pinned session."""
    whole = load(teacher.folder / "model")
    files, batches = {}, {}
    for name, exported in (("teacher", whole), ("pruned", model)):
        (scratch / name).mkdir()
        files[name] = export_onnx(exported, scratch / name)
        batches[name] = timed_batches(lesson.encode(exported, "test"), _BATCH, exported.pad_id)
    timing = time_in_turn(
        lambda threads: {name: file.runner(batches[name], threads) for name, file in files.items()},
        [_BATCH] * len(batches["teacher"]), setting=PINNED, seconds=_SECONDS,
    )  # fmt: skip
    return {
        "speedup": timing.ratio("teacher", "pruned").value,
        "parameters": model.network.num_parameters() / whole.network.num_parameters(),
        "disturbed": float(timing.conditions.disturbed is not None),
    }
