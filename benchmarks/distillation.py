"""All methods of distillation on SST-2 and TREC-6: three seeds, the same number of student updates for each.

    python -m benchmarks.distillation [--updates N] [--seeds N]

Every run is written to benchmarks/work/distillation, so that a benchmark that was stopped goes on where it was. The
teachers are those of `benchmarks.headline`. A student without a teacher sees the labelled texts only; all others see the
transfer texts too. No seed is picked: the table tells mean and spread of all that were run.
"""

import argparse
import copy
import gc
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.results import claim, write_result
from benchmarks.workspace import ROOT, reproduce
from lissom.artifacts import EXPORT_RECORD, read_json, write_json
from lissom.data.prepare import load_table
from lissom.data.tables import Table, write_table
from lissom.distill.config import DistillParams
from lissom.distill.material import DistillationResult, Material
from lissom.distill.run import distill
from lissom.emissions.meter import EnergyMeter
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.exits import sweep_speeds, try_speeds
from lissom.export.config import ExportParams
from lissom.export.exported import ExportRecord
from lissom.export.onnx import export_onnx, set_speed
from lissom.export.parity import check_parity
from lissom.models.base import load_base
from lissom.models.directory import load
from lissom.params import load_params
from lissom.training.config import TrainingParams
from lissom.training.teacher import CachedLogits, load_logits

_WORK = ROOT / "benchmarks" / "work"
_DATA = ("trec6", "sst2")
_BATCH, _SEEDS = 32, 3
_BLOCKS = [0, 2, 5]
_SHAPE = {"blocks": 3, "hidden_size": 192, "intermediate_size": 600}
_SPEEDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.65, 0.8)
_LOSS = 0.005
"""What a model with exits may lose to itself at full depth, on dev: half a point."""

Recipe = dict[str, Any]


def _once(rate: float, **more: Any) -> Recipe:
    return {"learning_rate": rate, "freeze_word_table": False, **more}


_COPIED, _FRESH = _once(2e-4), _once(5e-4)
_PEERS = [{"blocks": _BLOCKS, "seed": 0}, {"blocks": [0, 1, 2], "seed": 1}]
_TINY = {"method": "tinybert", "shape": _SHAPE, "signals": {"source": "live"}, "times": 4}
_LSTM = _once(2e-3, weight_decay=0, precision="float32", batch_size=_BATCH)
_TWO_PHASES = {
    "layers_training": _once(1e-3, keep="last", schedule="linear", share=0.6),
    "training": _once(5e-4, share=0.4),
}

METHODS: dict[str, Recipe] = {
    "no teacher": {"method": "logits", "blocks": _BLOCKS, "training": {**_COPIED, "loss": {"alpha": 0}}},
    "logits": {"method": "logits", "blocks": _BLOCKS, "training": _COPIED},
    "distilbert": {"method": "distilbert", "blocks": _BLOCKS, "signals": {"source": "live"}, "training": _COPIED},
    "patient, skip": {
        "method": "patient", "blocks": _BLOCKS, "signals": {"source": "live"},
        "training": {**_COPIED, "loss": {"alpha": 0.5, "mixing": "sum", "temperature": 2.0}},
    },
    "random start, no teacher": {
        "method": "logits", "blocks": _BLOCKS, "start": "random", "training": {**_FRESH, "loss": {"alpha": 0}}, "times": 4,
    },
    "random start, logits": {"method": "logits", "blocks": _BLOCKS, "start": "random", "training": _FRESH, "times": 4},
    "tinybert": {**_TINY, **_TWO_PHASES},
    "tinybert without attention": {**_TINY, **_TWO_PHASES, "attention_weight": 0},
    "tinybert without hidden and attention": {**_TINY, **_TWO_PHASES, "attention_weight": 0, "hidden_weight": 0},
    "mobilebert": {
        "method": "mobilebert", "signals": {"source": "live"}, "strategy": "joint", "times": 4,
        "shape": {"bottleneck_size": 96, "intermediate_size": 384, "ffns": 2},
        "transfer_training": _once(1e-3, keep="last", share=0.6), "training": _once(5e-4, share=0.4),
    },
    "lstm, no teacher": {"method": "lstm", "alpha": 1, "augmentation": None, "training": _LSTM, "times": 4},
    "lstm": {"method": "lstm", "training": _LSTM, "times": 4},
    "two peers, alone": {"method": "mutual", "peers": _PEERS, "kl_weight": 0, "training": _COPIED},
    "mutual": {"method": "mutual", "peers": _PEERS, "training": _COPIED},
    "joint": {"method": "joint", "blocks": _BLOCKS, "training": _COPIED},
    "born_again": {"method": "born_again", "blocks": _BLOCKS, "training": _COPIED},
    "ema": {"method": "ema", "blocks": _BLOCKS, "training": _COPIED},
    "deep_to_shallow": {"method": "deep_to_shallow", "training": _once(1e-4)},
    # Exits know nothing at their start either; the backbone has as many updates as any student.
    "fastbert": {
        "method": "fastbert", "times": 4,
        "backbone_training": _once(2e-4, share=0.25), "training": _once(2e-3, keep="last", share=0.75),
    },
}  # fmt: skip
_CLAIMED = (
    "no teacher", "logits", "random start, no teacher", "random start, logits", "patient, skip", "tinybert", "tinybert without attention",
    "tinybert without hidden and attention", "lstm, no teacher", "lstm", "two peers, alone", "mutual", "fastbert",
)  # fmt: skip
WITHOUT_TEACHER = ("no teacher", "random start, no teacher", "lstm, no teacher")


def main() -> None:
    """Run what has not been run yet, seed after seed, then write the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=300, help="updates of the student in every run")
    parser.add_argument("--seeds", type=int, default=_SEEDS)
    parser.add_argument("--table", action="store_true", help="only write the table of what has been run")
    arguments = parser.parse_args()
    for data, seed, name in product(_DATA, range(0 if arguments.table else arguments.seeds), METHODS):
        path = _result_path(data, name, arguments.updates, seed)
        if not path.is_file():
            result = _run(data, name, arguments.updates, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, result)
            print(data, name, seed, result, flush=True)
            gc.collect()
    _write(arguments.updates, arguments.seeds)


def _result_path(data: str, name: str, updates: int, seed: int) -> Path:
    return _WORK / "distillation" / f"{updates}" / data / f"{name.replace(' ', '_')}-{seed}.json"


def _run(data: str, name: str, updates: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        material = _material(data, Path(folder), with_transfer=name not in WITHOUT_TEACHER)
        params = _params(METHODS[name], material, updates, seed)
        started = time.perf_counter()
        with EnergyMeter("DEU") as meter:
            student = distill(params, material)
        seconds = time.perf_counter() - started
        test = _with_dev(material, load_table(_artifacts(data) / "prepare", "test"))
        actual = test.scorer(student.model, TrainingParams(precision="float32"))()
        result: dict[str, Any] = {
            "accuracy": actual,
            "seconds": seconds,
            "kwh": meter.reading.energy_kwh,
            "updates": sum(fitted.steps for fitted in student.trainings.values()),
            "parameters": sum(parameter.numel() for parameter in student.model.network.parameters()),
        }
        if name == "fastbert":
            result["exits"] = _exits(student, material, test, Path(folder))
        return result


def _with_dev(material: Material, table: Table) -> Material:
    """Return the material with another table in the place of dev."""
    return Material(**{**vars(material), "tables": {**material.tables, "dev": table}})


def _material(data: str, folder: Path, *, with_transfer: bool) -> Material:
    artifacts, params = _artifacts(data), load_params(_WORK / data / "params.yaml")
    if not (artifacts / "teacher").is_dir():
        reproduce(_WORK / data, "teacher")
    tables: dict[str, Table] = {
        split: load_table(artifacts / "prepare", split) for split in ("train", "transfer", "dev")
    }
    logits = load_logits(artifacts / "teacher_logits", len(tables["train"]) + len(tables["transfer"]))
    if not with_transfer:
        tables["transfer"] = write_table(folder / "none.arrow", [])
        logits = CachedLogits(logits.values[: len(tables["train"])])
    teacher = load(artifacts / "teacher")
    task = teacher.manifest.task
    return Material(
        teacher=teacher,
        tables=tables,
        scratch=folder,
        logits=logits,
        base=lambda drawn: load_base(params.base, task, drawn),
    )


def _params(recipe: Recipe, material: Material, updates: int, seed: int) -> Any:
    """Return the method's params with epochs such that all its trainings together make the wanted updates."""
    values = copy.deepcopy(recipe)
    updates *= values.pop("times", 1)
    examples = len(material.tables["train"]) + len(material.tables["transfer"])
    if values["method"] == "lstm" and values.get("augmentation", {}) is not None:
        copies = max(1, updates * _BATCH // (2 * examples))
        values["augmentation"] = {"copies": copies, "seed": seed}
        # More texts than the updates reach are of no use, and how many are duplicates is only known afterwards.
        examples += int(0.97 * copies * len(material.tables["train"]))
    for section, training in values.items():
        if section.endswith("training"):
            share = training.pop("share", 1.0)
            training |= {"epochs": share * updates * _BATCH / examples, "seed": seed}
    for number, peer in enumerate(values.get("peers", ())):
        peer["seed"] = 2 * seed + number
    return TypeAdapter(DistillParams).validate_python(values)


def _exits(student: DistillationResult, material: Material, test: Material, folder: Path) -> dict[str, Any]:
    """Export, and measure the speed that loses no more than half a point on dev."""
    exported, dev = export_onnx(student.model, folder), material.encode(student.model, "dev")
    params = ExportParams(speeds=_SPEEDS, max_speed_drop=_LOSS)
    full = material.scorer(student.model, TrainingParams(precision="float32"))()
    speed, tried = try_speeds(student.model, folder, dev, full, params)
    set_speed(folder, speed)
    record = ExportRecord(
        format="onnx", files=dict(exported.files), integer_kernels=0, tried_speeds=tuple(tried),
        parity=check_parity(student.model, exported, dev, params),
    )  # fmt: skip
    write_json(folder / EXPORT_RECORD, record.model_dump(mode="json"))
    test_data = test.encode(student.model, "dev")
    sweep = sweep_speeds(student.model, folder, test_data, EvaluateParams(seconds=3.0, samples=400))
    whole, chosen = sweep.settings[0], next(item for item in sweep.settings if item.speed == sweep.chosen)
    return {
        "speed": chosen.speed,
        "loss_points": (whole.score - chosen.score) * 100,
        "flops_ratio": chosen.flops_ratio,
        "speedup": whole.latency.mean / chosen.latency.mean,
        "mean_depth": chosen.mean_depth,
        "sweep": [setting.model_dump(mode="json", exclude={"latency"}) for setting in sweep.settings],
    }


def _artifacts(data: str) -> Path:
    return _WORK / data / "artifacts"


def _write(updates: int, seeds: int) -> None:
    results = {
        (data, name): [
            read_json(path) for seed in range(seeds) if (path := _result_path(data, name, updates, seed)).is_file()
        ]
        for name in METHODS
        for data in _DATA
    }
    rows = [_row(data, name, actual) for data in _DATA for name in METHODS if (actual := results[data, name])]
    # A claim compares methods on the same data and seeds: a set that lacks a run has no part in it.
    complete = [data for data in _DATA if all(len(results[data, name]) >= seeds for name in _CLAIMED)]
    if not complete:
        sys.exit("no data set has all the runs that claims need yet; run on")

    def points(name: str) -> Sequence[float]:
        return [100 * item["accuracy"] for data in complete for item in results[data, name]]

    def gain(better: str, worse: str) -> float:
        return float(np.mean(points(better)) - np.mean(points(worse)))

    def exits(figure: str) -> float:
        return float(np.mean([item["exits"][figure] for data in complete for item in results[data, "fastbert"]]))

    claims: Mapping[str, Mapping[str, Any]] = {
        "kd_gain_points": claim(gain("logits", "no teacher"), "points", ">= 0"),
        "kd_gain_random_start_points": claim(
            gain("random start, logits", "random start, no teacher"), "points", ">= 0"
        ),
        "tinybert_attention_gain_points": claim(gain("tinybert", "tinybert without attention"), "points", ">= 0"),
        "tinybert_layers_gain_points": claim(
            gain("tinybert", "tinybert without hidden and attention"), "points", ">= 0"
        ),
        "pkd_minus_kd_points": claim(gain("patient, skip", "logits"), "points", ">= 0"),
        "lstm_gain_points": claim(gain("lstm", "lstm, no teacher"), "points", ">= 2"),
        "fastbert_flops_ratio": claim(exits("flops_ratio"), "x", ">= 3"),
        "fastbert_speedup_measured": claim(exits("speedup"), "x", ">= 1"),
        "fastbert_loss_points": claim(exits("loss_points"), "points", "<= 0.5"),
        "mutual_gain_points": claim(gain("mutual", "two peers, alone"), "points", ">= 0"),
    }
    notes = [
        f"{updates} updates of {_BATCH} texts for every method; mean and standard deviation over the runs; claims are means "
        f"over {seeds} seeds of {' and '.join(complete)}",
        "teachers: " + ", ".join(f"{data} {_teacher_accuracy(data):.1f} %" for data in _DATA),
        "copied students have the teacher's blocks 0, 2 and 5; tinybert has 3 x 192 x 600; deep_to_shallow and fastbert all 6 blocks",
        "students that know nothing at their start (random, tinybert, mobilebert, lstm) and exits get four times the updates, with a teacher and without",
        "fastbert leaves early at the speed that loses at most half a point on dev; the loss told is that on test",
        "seconds and Wh: two runs at a time, one per core, and some with both cores; compare within a few tens of percent only",
    ]
    if seeds < _SEEDS:
        notes.insert(0, f"PRELIMINARY: {seeds} of {_SEEDS} seeds; differences of a point or two may be chance")
    write_result("distillation", rows, claims, seeds=list(range(seeds)), notes=notes)


def _row(data: str, name: str, actual: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracies = [100 * item["accuracy"] for item in actual]
    row: dict[str, Any] = {
        "data": data,
        "method": name,
        "accuracy_percent": float(np.mean(accuracies)),
        "spread": float(np.std(accuracies, ddof=1)) if len(actual) > 1 else None,
        "worst": min(accuracies),
        "runs": len(actual),
        "seconds": float(np.mean([item["seconds"] for item in actual])),
        "wh": float(np.mean([item["kwh"] for item in actual])) * 1000,
        "updates": actual[0]["updates"],
        "parameters_m": actual[0]["parameters"] / 1e6,
    }
    if "exits" in actual[0]:
        for figure in ("flops_ratio", "speedup", "loss_points"):
            row[figure] = float(np.mean([item["exits"][figure] for item in actual]))
    return row


def _teacher_accuracy(data: str) -> float:
    return (
        float(read_json(_WORK / data / "metrics" / "evaluate" / "teacher" / "metrics.json")["quality"]["score"]) * 100
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
