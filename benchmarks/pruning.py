"""Pruning of single weights: accuracy by method at equal sparsity and equal updates.

    python -m benchmarks.pruning [METHOD ...] [--data trec6] [--seed 1]

Every seed has a teacher of its own (benchmarks/teachers.py), which every method prunes and trains against the teacher's
logits, so that differences between methods are paired.
"""

import sys
import tempfile
from itertools import product
from operator import sub
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.teachers import Trained, params_of, teacher_of
from lissom.models.directory import load, save
from lissom.models.edits import SparseWeights
from lissom.prune.config import PruneMethod
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams, TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import load_logits

DATA = ("trec6", "sst2")
UPDATES, _BATCH, _SPARSITY = 600, 32, 0.85
DENSE = "dense"

_AT_ONCE, _CUBIC = {"method": "unstructured"}, {"method": "unstructured", "schedule": "cubic"}
METHODS: dict[str, dict[str, Any]] = {
    DENSE: {},
    "random, at once": {**_AT_ONCE, "criterion": "random"},
    "magnitude, at once": {**_AT_ONCE, "criterion": "magnitude"},
    "gradient, at once": {**_AT_ONCE, "criterion": "gradient"},
    "taylor, at once": {**_AT_ONCE, "criterion": "taylor"},
    "snip, at once": {**_AT_ONCE, "criterion": "snip"},
    "magnitude and gradient, at once": {**_AT_ONCE, "criterion": "magnitude_and_gradient"},
    "magnitude, cubic": {**_CUBIC, "criterion": "magnitude"},
    "taylor, cubic": {**_CUBIC, "criterion": "taylor"},
    "movement": {"method": "movement"},
}
_TRAINING: dict[str, Any] = {"batch_size": _BATCH, "learning_rate": 1e-4, "precision": "float32", "keep": "last"}

NOTES = (
    f"{UPDATES} updates of {_BATCH} texts for every row, the dense control too; {_SPARSITY:.0%} of the weights of attentions and feed-forward networks are zero, "
    "in movement of every matrix, else of all together",
    "megabytes: of model.safetensors, whose zeros are left out; the word table, which no method touches, is 46.9 MB of it (30,522 rows of 384 floats)",
    "the teacher's logits of the training texts, labels where there are some, T 2 and alpha 0.5, as by default",
)


def main() -> None:
    """Measure the rows that are named, or all; each is written as soon as it is measured."""
    options = parser(__doc__)
    options.add_argument("methods", nargs="*", metavar="METHOD", help=f"all if none is named: {'; '.join(METHODS)}")
    options.add_argument("--data", choices=DATA, action="append", help="all if none is named")
    arguments = options.parse_args()
    unknown = [name for name in arguments.methods if name not in METHODS]
    if unknown:
        sys.exit(f"no method {', '.join(unknown)}; there are: {'; '.join(METHODS)}")
    folder, updates = folder_of(arguments), 6 if arguments.rehearse else UPDATES
    for data, name in product(arguments.data or DATA, arguments.methods or METHODS):
        teacher = teacher_of(data, arguments.seed, rehearse=arguments.rehearse)
        figures = measure(teacher, name, updates, arguments.seed)
        record(BENCHMARK, {"data": data, "method": name}, arguments.seed, figures, data=teacher.data, folder=folder)


def settings(key: Key) -> Any:
    """Return what a row depends on besides code: its method and its teacher's params."""
    return {
        "method": METHODS[key["method"]], "training": _TRAINING, "updates": UPDATES, "teacher": params_of(key["data"]),
    }  # fmt: skip


def measure(teacher: Trained, name: str, updates: int, seed: int) -> dict[str, Any]:
    """Prune with a method and return the row's figures."""
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(tables=teacher.tables(), scratch=Path(scratch))
        model, texts = load(teacher.folder / "model"), len(lesson.tables["train"]) + len(lesson.tables["transfer"])
        logits = load_logits(teacher.folder / "logits", texts)
        training = {**_TRAINING, "seed": seed, "epochs": updates * _BATCH / texts}
        recipe, params = Recipe(), RecoveryParams.model_validate(training)
        if name != DENSE:
            method: Any = TypeAdapter(PruneMethod).validate_python(
                {**METHODS[name], "sparsity": _SPARSITY, "training": training}
            )
            recipe, params = plan(model, lesson, method), method.training
        result = compress(model, recipe, lesson, logits, params)
        save(model, Path(scratch) / "model")
        test = Lesson(tables={**lesson.tables, "dev": lesson.tables["test"]}, scratch=Path(scratch))
        sparse = [edit.sparsity for edit in model.manifest.edits if isinstance(edit, SparseWeights)]
        return {
            "accuracy_percent": 100 * test.scorer(model, TrainingParams(precision="float32"))(),
            "teacher_percent": 100 * teacher.accuracy,
            "sparsity": sparse[0] if sparse else 0.0,
            "updates": result.metrics["steps"],
            "megabytes": (Path(scratch) / "model" / "model.safetensors").stat().st_size / 1e6,
        }


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return effects: differences of two methods with the same teacher, data and seed, averaged over the data sets."""

    def accuracy(data: str, method: str) -> PerSeed:
        return rows.take("accuracy_percent", data=data, method=method)

    def gain(better: str, worse: str, bar: str | None) -> dict[str, Any]:
        return claim([paired(sub, accuracy(data, better), accuracy(data, worse)) for data in DATA], "points", bar)

    return {
        "movement_minus_magnitude_points_at_15": gain("movement", "magnitude, cubic", ">= 0"),
        "magnitude_minus_random_points_at_15": gain("magnitude, at once", "random, at once", None),
        "cubic_minus_at_once_points_at_15": gain("magnitude, cubic", "magnitude, at once", None),
        "magnitude_minus_dense_points_at_15": gain("magnitude, cubic", DENSE, None),
    }


BENCHMARK = Benchmark("pruning", ("data", "method"), claims, NOTES, settings=settings, tables="data")

if __name__ == "__main__":
    main()
