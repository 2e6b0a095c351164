"""A translator from scratch on Multi30k, and a student of half its size: rows of `benchmarks.tasks`."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data import require_data
from benchmarks.workspace import WORK
from lissom.artifacts import write_text
from lissom.data.config import DataParams
from lissom.data.prepare import load_table, prepare
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.distill.sequence_config import SequenceDistillation
from lissom.export.exported import split_answers
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.directory import load, save
from lissom.tasks.translation import Translation
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets

TEACHER, SEQUENCE = "teacher", "student, sequence"
BASE: dict[str, Any] = {
    "model": "new:marian", "max_length": 64,
    "shape": {"vocabulary": 4000, "width": 256, "blocks": 3, "heads": 4, "neurons": 512, "dropout": 0.1},
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "freeze_word_table": False, "precision": "float32",
}  # fmt: skip
STUDENT: dict[str, Any] = {"method": "sequence", "blocks": [0], "decoder_blocks": [0], "training": TRAINING}

_FILES = (("train", "train"), ("valid", "dev"), ("test2016", "test"))
_REHEARSED = 64


def translations(seed: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield variant and figures of every row; the teacher of a seed is trained once and kept."""
    with tempfile.TemporaryDirectory() as scratch:
        lesson = lesson_of(Path(scratch), rehearse=rehearse)
        teacher = teacher_of(lesson, seed, rehearse=rehearse)
        yield TEACHER, quality(teacher, lesson)
        params = SequenceDistillation.model_validate(
            {**STUDENT, "training": {**TRAINING, "seed": seed, **({"epochs": 1} if rehearse else {})}}
        )
        student = distill(params, Material(**vars(lesson), teacher=teacher)).model
        share = _size(student) / _size(teacher)
        yield SEQUENCE, {**quality(student, lesson), "share_of_parameters": share}


def lesson_of(scratch: Path, *, rehearse: bool) -> Lesson:
    """Read Multi30k as a user would, from two files with a line for every text."""
    source, pairs, prepared = require_data("multi30k"), scratch / "pairs", scratch / "data"
    pairs.mkdir()
    prepared.mkdir()
    for origin, split in _FILES:
        for language in ("en", "de"):
            (path,) = source.glob(f"{origin}.{language}*")
            shutil.copy(path, pairs / path.name.replace(origin, split))
    prepare(DataParams(source=f"files:{pairs}", task="translation", text="en", label="de"), prepared)
    if rehearse:
        _shorten(prepared, scratch / "short")
        prepared = scratch / "short"
    names = ("train", "transfer", "dev", "test")
    return Lesson(tables={name: load_table(prepared, name) for name in names}, scratch=scratch)


def _shorten(prepared: Path, target: Path) -> None:
    lines = {name: list(load_table(prepared, name).rows())[:_REHEARSED] for name in ("train", "dev", "test")}
    folder = target.with_name("short-pairs")
    for name, rows in lines.items():
        content = "".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows)
        write_text(folder / f"{name}.jsonl", content)
    target.mkdir()
    prepare(DataParams(source=f"files:{folder}", task="translation"), target)


def teacher_of(lesson: Lesson, seed: int, *, rehearse: bool) -> CompressedModel:
    """Return the translator of a seed, which is trained once and kept."""
    kept = WORK / f"tasks-translation-{seed}{'-rehearsed' if rehearse else ''}"
    if kept.is_dir():
        return load(kept)
    teacher = fresh(lesson, seed)
    training = TrainingParams(**{**TRAINING, "seed": seed, **({"epochs": 1} if rehearse else {})})
    lesson.train(
        "teacher", teacher.network, lesson.encode(teacher, "train"), teacher.pad_id,
        against_targets(teacher.manifest.task), training, identity="", score=lesson.scorer(teacher, training),
    )  # fmt: skip
    save(teacher, kept)
    return teacher


def fresh(lesson: Lesson, seed: int) -> CompressedModel:
    """Return a translator with random weights, and a vocabulary learnt from the training texts."""
    rows = list(lesson.tables["train"].rows())
    params, task = BaseParams.model_validate(BASE), Translation(name="multi30k", pair=False, max_length=64)
    return load_base(params, task, seed, texts=lambda: [str(text) for row in rows for text in (row.text, row.label)])


def quality(model: CompressedModel, lesson: Lesson) -> dict[str, Any]:
    """Return BLEU and chrF of the exported file on test2016, which searches with its beam."""
    task, test = model.manifest.task, lesson.encode(model, "test")
    with tempfile.TemporaryDirectory() as folder:
        answers = split_answers(export_onnx(model, Path(folder)), test, task)
    figures = task.quality(answers, answers, test.judged.targets, 1).figures
    return {**figures, "bleu": 100 * figures["bleu"], "parameters": _size(model)}


def _size(model: CompressedModel) -> int:
    return sum(parameter.numel() for parameter in model.network.parameters())
