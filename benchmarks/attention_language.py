"""Perplexity by length of the context, in the form of LongNet's table 2: the same tokens, read in longer windows."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention_speed import DENSE, LONGNET
from benchmarks.smollm2 import perplexity, table, wikitext
from benchmarks.workspace import WORK
from lissom.attention.config import LongNet, Pattern, SparseTransformer
from lissom.gguf.proof import windows_of
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.edits import UseAttention
from lissom.tasks.language_modeling import LanguageModeling
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets

LANGUAGE = "language"
SPARSE = "Sparse Transformer, fixed"
LENGTHS = (512, 1024, 2048)
_BASE = {"model": "new:llama", "shape": {"vocabulary": 2048, "width": 128, "blocks": 4, "heads": 4, "neurons": 384}}
_CHARACTERS, _TEXT, _TOKENS_PER_UPDATE = 6_000_000, 60_000, 8192
_TRAINING = {"epochs": 1, "learning_rate": 2e-3, "freeze_word_table": False, "precision": "float32", "keep": "last"}
_PATTERNS: dict[str, Pattern | None] = {
    DENSE: None,
    SPARSE: SparseTransformer(pattern="sparse_transformer", form="fixed", stride=64),
    LONGNET: LongNet(pattern="longnet", segments=(128, 512, 2048), dilations=(1, 4, 16)),
}


def settings_of() -> dict[str, Any]:
    """Return what the rows depend on besides code."""
    patterns = {
        name: None if pattern is None else pattern.model_dump(mode="json") for name, pattern in _PATTERNS.items()
    }
    return {"base": _BASE, "characters": _CHARACTERS, "tokens_per_update": _TOKENS_PER_UPDATE, **_TRAINING, **patterns}


def language(seed: int, *, rehearse: bool) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Train and yield pattern, tokens and figures."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as scratch:
        folder = Path(scratch)
        train, test = (
            _long("".join(wikitext(split, 0, share)))
            for split, share in (("train", _CHARACTERS // (100 if rehearse else 1)), ("test", 300_000))
        )
        tables = {
            name: table(texts, folder / f"{name}.arrow")
            for name, texts in (("train", train), ("transfer", []), ("dev", test[:1]), ("test", test))
        }
        for tokens in LENGTHS[:1] if rehearse else LENGTHS:
            for pattern in _PATTERNS:
                place = folder / f"{pattern}-{tokens}"
                place.mkdir()
                yield pattern, tokens, _trained(Lesson(tables=tables, scratch=place), train, pattern, tokens, seed)


def _trained(lesson: Lesson, texts: list[str], pattern: str, tokens: int, seed: int) -> dict[str, Any]:
    task = LanguageModeling(name="wikitext", pair=False, max_length=tokens)
    base = BaseParams.model_validate({**_BASE, "max_length": tokens})
    model = load_base(base, task, seed, texts=lambda: texts)
    chosen = _PATTERNS[pattern]
    if chosen is not None:
        model.edit([UseAttention(patterns=(chosen,))])
    training = TrainingParams.model_validate({**_TRAINING, "batch_size": _TOKENS_PER_UPDATE // tokens, "seed": seed})
    data = lesson.encode(model, "train")
    result = lesson.train(
        f"training-{pattern}-{tokens}", model.network, data, model.pad_id, against_targets(task), training,
        identity=f"{pattern} {tokens}",
    )  # fmt: skip
    windows = [
        window for window in windows_of(lesson.encode(model, "test"), 10**9, tokens) if len(window) == tokens
    ]  # fmt: skip
    return {
        "ppl": perplexity(model, windows), "updates": result.steps, "tokens_trained": int(np.sum(data.lengths)),
        "examples_per_second": result.examples_per_second, "test_tokens": tokens * len(windows),
    }  # fmt: skip


def _long(text: str) -> list[str]:
    """Cut a text into pieces that are much longer than a window, so that windows are full."""
    return [text[start : start + _TEXT] for start in range(0, len(text), _TEXT)]
