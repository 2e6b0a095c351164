"""Accuracy while single weights go, by criterion and without a training: the curve over sparsity that a training mends."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.structures import PERCENT, accuracy, figures_of
from benchmarks.teachers import Trained
from lissom.models.directory import load
from lissom.prune.config import PruneMethod
from lissom.prune.plan import plan
from lissom.prune.sparse_config import UnstructuredPruning
from lissom.training.lesson import Lesson

CURVES = {
    f"weights, by {criterion.replace('_', ' ')}": criterion
    for criterion in ("magnitude", "gradient", "taylor", "snip", "magnitude_and_gradient", "random")
}


def measure_curve(teacher: Trained, name: str, seed: int) -> dict[str, Any]:
    """Return the accuracy on test with every tenth of the weights removed at once."""
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(tables=teacher.tables(), scratch=Path(scratch))
        for percent in PERCENT:
            params: PruneMethod = UnstructuredPruning.model_validate({
                "method": "unstructured", "criterion": CURVES[name], "sparsity": percent / 100, "seed": seed,
                "training": None,
            })  # fmt: skip
            model = load(teacher.folder / "model")
            remove = plan(model, lesson, params).calibrate
            assert remove is not None
            remove(model)
            result[percent] = accuracy(model, lesson)
    return {"teacher_percent": 100 * teacher.accuracy, **figures_of(result)}
