"""Prediction of the next token; the metric is the perplexity per token.

Texts are cut into windows of at most `max_length` tokens, which never reach into the next text; batches hold windows of
similar length, so that there is little padding and no text is seen by another. The first token of a window is not
predicted. Targets are `[tokens, 3]`: the token, and the bytes and words of the text that it ends, by which models with
other tokenizers are compared.

A distribution over a vocabulary is never kept for a whole split: metrics need two numbers of it (`condense`).
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from lissom.data.encoding import Encoded, map_array
from lissom.data.tables import CONVERSATION, Table
from lissom.serving.language_modeling import NEW_TOKENS
from lissom.tasks.chat import render
from lissom.tasks.meter import Meter
from lissom.tasks.metric import PERPLEXITY, Metric
from lissom.tasks.next_token import NextToken
from lissom.tasks.perplexity import PerplexityMeter
from lissom.tasks.quality import Quality
from lissom.tasks.task import Task

_TEXTS_PER_CALL = 64


class LanguageModeling(NextToken):
    """Causal language modeling; the outputs are logits of the next token."""

    kind: Literal["language_modeling"] = "language_modeling"
    chat_template: str | None = None
    """The base model's template of conversations."""
    chat_tokens: dict[str, str] = Field(default_factory=dict)
    """The special tokens that the template names."""

    @property
    def metric(self) -> Metric:
        """Return perplexity."""
        return PERPLEXITY

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of causal language models."""
        return AutoModelForCausalLM

    @property
    def continues_texts(self) -> bool:
        """Return true."""
        return True

    def condense(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return log-probability of the target and most likely token, `[tokens, 2]`."""
        log_p = F.log_softmax(outputs.float(), dim=-1)
        chosen = log_p.gather(1, targets[:, :1]).squeeze(1)
        return torch.stack([chosen, log_p.argmax(-1).float()], 1)

    def meter(self) -> Meter:
        """Return a meter of the perplexity."""
        return PerplexityMeter()

    def changes(
        self,
        answers: NDArray[np.float32],
        teacher: NDArray[np.float32],
        targets: NDArray[Any],
    ) -> NDArray[np.str_]:
        """Return nothing: windows of a text are no answers that are right or wrong."""
        return np.empty(0, dtype=np.str_)

    def show_answers(
        self,
        logits: NDArray[np.float32],
        targets: NDArray[Any],
        texts: Sequence[str],
    ) -> list[str]:
        """Return nothing, as `changes` does."""
        return []

    def quality(
        self,
        answers: NDArray[np.float32],
        teacher: NDArray[np.float32],
        targets: NDArray[Any],
        bins: int,
    ) -> Quality:
        """Return perplexities per token and word, bits per byte, and how often the most likely token is right."""
        meter = PerplexityMeter()
        meter.add(answers, targets)
        figures = {
            **meter.figures(),
            "next_token_accuracy": float((answers[:, 1] == targets[:, 0]).mean()),
        }
        same = float((answers[:, 1] == teacher[:, 1]).mean()) if len(answers) == len(teacher) else None
        return Quality(examples=len(targets), score=figures["perplexity"], agreement=same, figures=figures)

    def same_question(self, other: Task) -> bool:
        """Return whether the other task is a language model too."""
        return isinstance(other, LanguageModeling)

    def describe(self) -> str:
        """Return what is predicted."""
        return "the next token of a text"

    @property
    def answer_columns(self) -> str:
        """Return the column of `lissom.serving.pyfunc`."""
        return "`continuation`, the most likely next tokens as text"

    def serving(self) -> dict[str, Any]:
        """Return the length of a continuation and the entries of every task."""
        return {**super().serving(), "new_tokens": NEW_TOKENS}

    def count_rows(self, tables: Sequence[Table], tokenizer: Tokenizer, of_targets: Tokenizer | None = None) -> int:
        """Return the number of predicted tokens."""
        return sum(len(places) for _, _, places, _ in self._windows(tables, tokenizer))

    def encode(
        self, tables: Sequence[Table], tokenizer: Tokenizer, folder: Path, of_targets: Tokenizer | None = None
    ) -> Encoded:
        """Tokenise texts and cut them into windows, in files below `folder`, which must outlive the result.

        Of conversations only the tokens are predicted that the assistant says.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = ("tokens.i32", "places.i64", "targets.i64")
        sizes: list[tuple[int, int]] = []
        numbers: list[int] = []
        files = [(folder / name).open("wb") for name in names]
        try:
            for number, ids, places, targets in self._windows(tables, tokenizer):
                numbers.append(number)
                sizes.append((len(ids), len(places)))
                arrays: tuple[NDArray[Any], ...] = (ids, places, targets)
                for file, array in zip(files, arrays, strict=True):
                    array.tofile(file)
        finally:
            for file in files:
                file.close()
        columns = np.reshape(np.asarray(sizes, dtype=np.int64), (-1, 2)).T
        offsets, row_offsets = (np.concatenate([[0], np.cumsum(column)]) for column in columns)
        tokens, rows = int(offsets[-1]), int(row_offsets[-1])
        return Encoded(
            map_array(folder / names[0], np.int32, (tokens,)), np.zeros(tokens, dtype=np.uint8), offsets,
            map_array(folder / names[2], np.int64, (rows, 3)),
            places=map_array(folder / names[1], np.int64, (rows,)), row_offsets=row_offsets,
            text_numbers=np.asarray(numbers, dtype=np.int64),
        )  # fmt: skip

    def _windows(
        self, tables: Sequence[Table], tokenizer: Tokenizer
    ) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield every window: number of its text, tokens `[n]`, places of the predicting ones, targets `[rows, 3]`."""
        for number, (encoding, text, parts) in enumerate(self._encodings(tables, tokenizer)):
            ids, sizes = np.asarray(encoding.ids, dtype=np.int32), _sizes(encoding, text)
            is_predicted = _are_inside(encoding, parts)
            for start in range(0, len(ids), self.max_length):
                window = slice(start, start + self.max_length)
                targets = np.concatenate([ids[window, None], sizes[window]], axis=1).astype(np.int64)
                places = np.flatnonzero(is_predicted[window][1:])
                if len(places):
                    yield number, ids[window], places, targets[places + 1]

    def _encodings(
        self, tables: Sequence[Table], tokenizer: Tokenizer
    ) -> Iterator[tuple[Encoding, str, list[tuple[int, int]] | None]]:
        """Yield the encoding of every text, uncut, the text, and of conversations the parts that are predicted."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        rows = (row for table in tables for row in zip(table.texts(), table.labels(), strict=True))
        while chunk := list(islice(rows, _TEXTS_PER_CALL)):
            plain = iter(tokenizer.encode_batch([text for (text, _), label in chunk if label != CONVERSATION]))
            for (text, _), label in chunk:
                if label == CONVERSATION:
                    rendered, parts = render(text, self.chat_template, self.chat_tokens)
                    yield tokenizer.encode(rendered, add_special_tokens=False), rendered, parts
                else:
                    yield next(plain), text, None


def _are_inside(encoding: Encoding, parts: list[tuple[int, int]] | None) -> NDArray[np.bool_]:
    """Return which tokens lie in some parts of the text, `[tokens]`; all if `parts` is None."""
    if parts is None:
        return np.ones(len(encoding.ids), dtype=np.bool_)
    starts, ends = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    inside = np.zeros(len(starts), dtype=np.bool_)
    for first, last in parts:
        inside |= (starts >= first) & (ends <= last) & (ends > starts)
    return inside


def _sizes(encoding: Encoding, text: str) -> NDArray[np.int64]:
    """Return the bytes and words of the text from the end of the token before to a token's end, `[tokens, 2]`."""
    ends = np.maximum.accumulate(np.asarray([end for _, end in encoding.offsets], dtype=np.int64))
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
    is_space = np.fromiter((character.isspace() for character in text), dtype=bool, count=len(text))
    starts = ~is_space & np.concatenate([[True], is_space[:-1]])
    sums = [np.concatenate([[0], np.cumsum(values)]) for values in (widths, starts)]
    return np.stack([np.diff(total[ends], prepend=0) for total in sums], axis=1).astype(np.int64)
