"""Pruning: accuracy by method at equal updates, of single weights at equal sparsity, and of heads, neurons and blocks.

    python -m benchmarks.pruning [METHOD ...] [--data trec6] [--seed 1]

Every seed has a teacher of its own (benchmarks/teachers.py), which every method prunes and trains against the teacher's
logits, so that differences between methods are paired. Orders of heads, and criteria of weights over all sparsities, are
compared without a training.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from itertools import product
from operator import sub
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.pruned_translators import GATED, MULTI30K, PENALTIES, SCRATCH, TRANSLATORS, WHOLE, translators
from benchmarks.pruned_translators import settings as translator_settings
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.sparsity_curves import CURVES, measure_curve
from benchmarks.structures import IMPORTANCE, ORDERS, RANDOM, STRUCTURES, accuracy, measure_order, measure_speed
from benchmarks.teachers import Trained, params_of, teacher_of
from lissom.evaluate.relative_latency import relative_latency, table_path
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load, save
from lissom.models.edits import SparseWeights
from lissom.prune.config import PruneMethod
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import load_logits

DATA = ("trec6", "sst2")
_SETS = (*DATA, MULTI30K)
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
    "movement": {"method": "movement", "rewind": "none"},
}
"""Methods that remove single weights, the share `_SPARSITY` of them."""
_MOVING, _MAGNITUDE = "movement, from the pre-trained model", "magnitude, cubic, from the pre-trained model"
_LONG = "movement, 2,400 updates"
UNTRAINED = {
    _MOVING: {"method": "movement", "rewind": "base"},
    _MAGNITUDE: METHODS["magnitude, cubic"],
    _LONG: METHODS["movement"],
}
"""Why movement fails on a model that is trained already: from weights that still move, or with more updates."""
FROM_BASE, TICKET, RANDOM_WEIGHTS, RANDOM_MASK = (
    "dense, from the pre-trained model", "ticket, 50 %", "random weights, 50 %", "random mask, 50 %",
)  # fmt: skip
_TICKET = {"method": "lottery_ticket", "rewind": "base", "sparsity": 0.5}
TICKETS: dict[str, dict[str, Any]] = {
    FROM_BASE: {},
    TICKET: _TICKET,
    RANDOM_WEIGHTS: {**_TICKET, "control": "random_weights"},
    RANDOM_MASK: {**_TICKET, "control": "random_mask"},
}
_STRUCTURES = STRUCTURES | {
    "LayerDrop, 50 %": {"method": "layer_drop", "blocks": 3},
    "hidden channels, 67 %": {"method": "hidden", "keep": 0.67},
    "hidden channels, 50 %": {"method": "hidden", "keep": 0.5},
    "first order, half of the latency": {"method": "first_order", "budget": {"of": "latency", "keep": 0.5}},
}
_PARAMS = METHODS | UNTRAINED | TICKETS | _STRUCTURES
_FROM_BASE = (FROM_BASE, _MAGNITUDE)
_ALL = (*METHODS, *UNTRAINED, *TICKETS, *ORDERS, *CURVES, *_STRUCTURES)
_NAMES = (*_ALL, *TRANSLATORS)
_TRAINING: dict[str, Any] = {"batch_size": _BATCH, "learning_rate": 1e-4, "precision": "float32", "keep": "last"}

NOTES = (
    f"{UPDATES} updates of {_BATCH} texts for every row, the dense control too, but for the orders of heads and the curves of weights, which are not trained",
    f"single weights: {_SPARSITY:.0%} of those of attentions and feed-forward networks are zero, in movement of every matrix, else of all together",
    "movement learns nothing in 600 updates of a model that is trained already: it answers one class, and rewind: base is its default. The rows from the pre-trained model, as in the paper, and with 2,400 updates tell why; "
    "movement_minus_magnitude_points_at_15 is from the trained model, for both",
    "tickets: three rounds from the fine-tuned teacher, then the weights of the pre-trained model, masked, are trained for as many updates as the dense model that starts from it",
    "structures: percentages are of the parameters of attentions and feed-forward networks that are kept; speedup of one text on one pinned core, "
    "both files (ONNX, floats) in one session; parameters are of the whole model, word table included",
    "heads_removed_at_1pct: the share of heads up to which accuracy on test stays within a point of the teacher's, in steps of a tenth; at random: mean of three orders",
    "megabytes: of model.safetensors, whose zeros are left out; the word table, which no method touches, is 46.9 MB of it (30,522 rows of 384 floats)",
    "multi30k: BLEU of the exported file on test2016 (sacrebleu, beam of 4); heads of one kind of attention go by importance without a training; gates are trained for 5 epochs after the translator's 10, on the references, "
    "and the same shape from scratch for 15",
    "the teacher's logits of the training texts, labels where there are some, T 2 and alpha 0.5, as by default",
)


def main() -> None:
    """Measure the rows that are named, or all; each is written as soon as it is measured."""
    options = parser(__doc__)
    options.add_argument("methods", nargs="*", metavar="METHOD", help=f"all if none is named: {'; '.join(_NAMES)}")
    options.add_argument("--data", choices=_SETS, action="append", help="all if none is named")
    arguments = options.parse_args()
    unknown = [name for name in arguments.methods if name not in _NAMES]
    if unknown:
        sys.exit(f"no method {', '.join(unknown)}; there are: {'; '.join(_NAMES)}")
    folder, updates = folder_of(arguments), 6 if arguments.rehearse else UPDATES
    wanted, sets = tuple(arguments.methods or _NAMES), arguments.data or _SETS
    if MULTI30K in sets:
        for name, figures in translators(wanted, arguments.seed, rehearse=arguments.rehearse):
            record(BENCHMARK, {"data": MULTI30K, "method": name}, arguments.seed, figures, folder=folder)
    for data, name in product(DATA, _ALL):
        if data not in sets or name not in wanted:
            continue
        teacher = teacher_of(data, arguments.seed, rehearse=arguments.rehearse)
        if name in ORDERS:
            figures = measure_order(teacher, name, arguments.seed)
        elif name in CURVES:
            figures = measure_curve(teacher, name, arguments.seed)
        else:
            figures = measure(teacher, name, 4 * updates if name == _LONG else updates, arguments.seed)
        record(BENCHMARK, {"data": data, "method": name}, arguments.seed, figures, data=teacher.data, folder=folder)


def settings(key: Key) -> Any:
    """Return what a row depends on besides code: its method and its teacher's params."""
    if key["data"] == MULTI30K:
        return translator_settings(key["method"])
    return {
        "method": _PARAMS.get(key["method"]), "training": _TRAINING, "updates": UPDATES, "teacher": params_of(key["data"]),
    }  # fmt: skip


def measure(teacher: Trained, name: str, updates: int, seed: int) -> dict[str, Any]:
    """Prune with a method and return the row's figures."""
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(
            tables=teacher.tables(), scratch=Path(scratch), latency=relative_latency(Path(scratch), table_path())
        )
        model, texts = load(teacher.folder / "model"), len(lesson.tables["train"]) + len(lesson.tables["transfer"])
        logits = load_logits(teacher.folder / "logits", texts)
        training = {**_TRAINING, "seed": seed, "epochs": updates * _BATCH / texts}
        recipe, params = Recipe(), RecoveryParams.model_validate(training)
        if name in _FROM_BASE:
            model = load_base(teacher.base, model.manifest.task, seed)
        if _PARAMS[name]:
            sparsity = {"sparsity": _SPARSITY} if name in METHODS | UNTRAINED else {}
            method: Any = TypeAdapter(PruneMethod).validate_python({**_PARAMS[name], **sparsity, "training": training})
            recipe, params = plan(model, lesson, method), method.training
        result = compress(model, recipe, lesson, logits, params)
        save(model, Path(scratch) / "model")
        sparse = [edit.sparsity for edit in model.manifest.edits if isinstance(edit, SparseWeights)]
        return {
            "accuracy_percent": accuracy(model, lesson),
            "teacher_percent": 100 * teacher.accuracy,
            "sparsity": sparse[0] if sparse else 0.0,
            "updates": result.metrics["steps"],
            "megabytes": (Path(scratch) / "model" / "model.safetensors").stat().st_size / 1e6,
            **({} if name not in _STRUCTURES else _of_structures(result.metrics, model, teacher, lesson)),
        }


def _of_structures(metrics: dict[str, Any], model: CompressedModel, teacher: Trained, lesson: Lesson) -> dict[str, Any]:
    heads = metrics.get("kept", {}).get("heads")
    closed = {} if heads is None else {"heads_closed": 1 - heads["after"] / heads["before"]}
    return {**measure_speed(model, teacher, lesson, lesson.scratch), **closed}


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return effects: differences of two methods with the same teacher, data and seed, averaged over the data sets."""

    def accuracy(data: str, method: str) -> PerSeed:
        return rows.take("accuracy_percent", data=data, method=method)

    def gain(better: str, worse: str, bar: str | None) -> dict[str, Any]:
        return claim([paired(sub, accuracy(data, better), accuracy(data, worse)) for data in DATA], "points", bar)

    def within(figure: str, names: Iterable[str], least: Callable[[float], float], data: str) -> PerSeed:
        """The largest figure among methods whose accuracy is at least what `least` makes of the teacher's; 0 if none."""
        best = PerSeed()
        for name in names:
            value, own, whole = (
                rows.take(column, data=data, method=name) for column in (figure, "accuracy_percent", "teacher_percent")
            )
            reached = paired(lambda value, own, whole: value if own >= least(whole) else 0.0, value, own, whole)
            best = PerSeed(
                {seed: max(value, best.values.get(seed, 0.0)) for seed, value in reached.values.items()} | (
                    {seed: value for seed, value in best.values.items() if seed not in reached.values}
                ),
                best.old or reached.old, best.machines | reached.machines,
            )  # fmt: skip
        return best

    def at_50(method: str, data: str) -> PerSeed:
        return rows.take("accuracy_percent_50", data=data, method=method)

    def bleu(method: str) -> PerSeed:
        return rows.take("bleu", data=MULTI30K, method=method)

    gates = [name for name, params in STRUCTURES.items() if params.get("keep")]
    gates.append("gates, 50 %")
    first_order = [name for name in STRUCTURES if name.startswith("first order")]
    on_heads = [name for name in STRUCTURES if "on heads" in name]
    return {
        "importance_minus_random_points_at_50_heads": claim(
            [paired(sub, at_50(IMPORTANCE, data), at_50(RANDOM, data)) for data in DATA], "points", ">= 1"
        ),
        "heads_removed_at_1pct": claim(
            [rows.take("heads_removed_at_1pct", data=data, method=IMPORTANCE) for data in DATA], "", ">= 0.2"
        ),
        "gates_closed_at_1pct": claim(
            [within("heads_closed", on_heads, lambda whole: whole - 1, data) for data in DATA], "", ">= 0.6"
        ),
        "joint_gates_speedup_at_98": claim(
            [within("speedup", gates, lambda whole: 0.98 * whole, data) for data in DATA], "x", None
        ),
        "joint_gates_speedup_over_first_order_at_98": claim(
            [
                paired(
                    lambda gated, removed: gated / removed if removed else 0.0,
                    *(within("speedup", names, lambda whole: 0.98 * whole, data) for names in (gates, first_order)),
                )
                for data in DATA
            ],
            "x",
            ">= 1",
        ),
        "gates_minus_first_order_points_at_50": gain("gates, 50 %", "first order, 50 %", None),
        "gates_minus_blocks_points_at_50": gain("gates, 50 %", "blocks, 50 %", None),
        "ticket_minus_dense_points_at_50": gain(TICKET, FROM_BASE, ">= -0.5"),
        "ticket_minus_random_points": gain(TICKET, RANDOM_WEIGHTS, ">= 0"),
        "ticket_minus_random_mask_points": gain(TICKET, RANDOM_MASK, None),
        "bleu_baseline": claim(bleu(WHOLE), "BLEU", ">= 30"),
        "bleu_pruned_minus_scratch": claim(
            [paired(sub, bleu(GATED.format(each)), bleu(SCRATCH.format(each))) for each in PENALTIES], "BLEU", ">= 0"
        ),
        "movement_minus_magnitude_points_at_15": gain("movement", "magnitude, cubic", ">= 0"),
        "movement_minus_magnitude_from_base_points_at_15": gain(_MOVING, _MAGNITUDE, ">= 0"),
        "magnitude_minus_random_points_at_15": gain("magnitude, at once", "random, at once", None),
        "cubic_minus_at_once_points_at_15": gain("magnitude, cubic", "magnitude, at once", None),
        "magnitude_minus_dense_points_at_15": gain("magnitude, cubic", DENSE, None),
    }


BENCHMARK = Benchmark(
    "pruning", ("data", "method"), claims, NOTES, settings=settings, tables="data",
    parts={MULTI30K: "pruned_translators"}, timed=("speedup",),
)  # fmt: skip

if __name__ == "__main__":
    main()
