"""A language model with fewer blocks: its perplexity as it is and while it learns from the whole, and its speed."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.smollm2 import perplexity
from lissom.data.encoding import Encoded
from lissom.data.tables import Row, write_table
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.writing import token_runner
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.gguf.proof import windows_of
from lissom.models.compressed import CompressedModel
from lissom.prune.config import BlocksPruning
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.teacher import LiveTeacher

DEPTH: dict[str, Any] = {
    "method": "blocks", "blocks": 20, "calibration_examples": 32,
    "training": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-4, "loss": {"temperature": 1, "alpha": 1}},
}  # fmt: skip
WHOLE, PLAIN, DISTILLED = "30 blocks", "20 blocks, plain", "20 blocks, distilled"
_POINTS, _PROMPT = 8, 128


def depth_rows(
    model: CompressedModel, train: Sequence[str], calibration: Sequence[str], test: Sequence[str], folder: Path,
    tokens: int, seed: int,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Yield variant and figures of every row; `tokens` of test are measured."""

    def lesson_of(texts: Sequence[str], name: str) -> Lesson:
        place = folder / name
        place.mkdir()
        tables = {
            split: write_table(place / f"{split}.arrow", [Row(text, None, None) for text in members])
            for split, members in (("train", texts), ("transfer", []), ("dev", test[:1]))
        }
        return Lesson(tables=tables, scratch=place)

    measured = lesson_of(test, "test")
    windows = list(windows_of(measured.encode(model, "train"), tokens, model.manifest.task.max_length))
    yield WHOLE, {"ppl": perplexity(model, windows)}
    student, training = copy.deepcopy(model), {**DEPTH["training"], "seed": seed}
    params = BlocksPruning.model_validate({**DEPTH, "training": training})
    student.edit(plan(student, lesson_of(calibration, "calibration"), params).edits)
    gain = _gain(model, student, windows[0][:_PROMPT], folder)
    yield PLAIN, {"ppl": perplexity(student, windows), "edits": student.manifest.edits[-1].describe(), **gain}
    lesson = lesson_of(train, "train")
    data = lesson.texts(student)
    curve = _Curve(student, windows, data, DEPTH["training"]["batch_size"])
    result = compress(student, Recipe(hooks=[curve]), lesson, LiveTeacher(model.network), params.training)
    yield DISTILLED, {
        "ppl": perplexity(student, windows), "tokens_trained": len(data.tokens), "steps": result.metrics["steps"],
        "curve": ", ".join(f"{tokens} {ppl:.1f}" for tokens, ppl in curve.points.items()), "precision": result.metrics["precision"],
    }  # fmt: skip


class _Curve(Hook):
    """The perplexity on test after equal parts of a training; it decides nothing."""

    def __init__(
        self, model: CompressedModel, windows: Sequence[Sequence[int]], data: Encoded, batch_size: int
    ) -> None:
        self._model, self._windows, self._tokens_per_step = model, windows, batch_size * float(data.lengths.mean())
        self.points: dict[str, float] = {}

    def after_step(self, step: int, total: int) -> None:
        """Record tokens and perplexity after every eighth of the training."""
        if (step + 1) % max(1, total // _POINTS) == 0:
            self.points[str(round((step + 1) * self._tokens_per_step))] = perplexity(self._model, self._windows)
            self._model.network.train()


def _gain(whole: CompressedModel, fewer: CompressedModel, prompt: Sequence[int], folder: Path) -> dict[str, float]:
    """Return the tokens per second of both models' Q8_0 files in llama.cpp, and their ratio."""
    runners = {}
    for name, model in (("whole", whole), ("fewer", fewer)):
        path = folder / f"{name}.gguf"
        write_gguf(gguf_model(model), path, FILE_TYPES["q8_0"])
        runners[name] = token_runner(LlamaCpp(path, 2 * _PROMPT, threads=1, exact=False).step, prompt)
    timing = measure_latency(runners, [1], threads=1, seconds=10)
    return {
        "tokens_per_second_gain": timing.ratio("whole", "fewer").value,
        "disturbed": float(timing.conditions.disturbed is not None),
        **{f"tokens_per_second_{name}": timing.latency(name).examples_per_second for name in runners},
    }
