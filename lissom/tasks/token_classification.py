"""A label for every word of a text, whose spans are what is asked for; the metric is the F1 of whole spans.

Targets are `[words, 2]`: the label's index, and 1 for the first word of a text, so that spans never reach into the next
text. A word is answered by its first token (Devlin et al. 2019, arXiv:1810.04805, §5.3); the others have no target.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification

from lissom.data.encoding import Encoded, encode
from lissom.data.labels import UNLABELLED
from lissom.data.tables import Table
from lissom.serving.token_classification import places, spans_of, types_of, words_of
from lissom.tasks.labels import LabelTask
from lissom.tasks.meter import Meter
from lissom.tasks.metric import ENTITY_F1, Metric
from lissom.tasks.quality import Quality
from lissom.tasks.span_meter import SpanMeter


class TokenClassification(LabelTask):
    """Tagging of words, as for named entities and personal data; `labels[0]` is `O`, outside of every span."""

    kind: Literal["token_classification"] = "token_classification"

    @property
    def metric(self) -> Metric:
        """Return the F1 of spans."""
        return ENTITY_F1

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of token classifiers."""
        return AutoModelForTokenClassification

    @property
    def is_per_token(self) -> bool:
        """Return true."""
        return True

    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Return label and first mark of every word, `[words, 2]` int64.

        Args:
            texts: the tags of every text, separated by spaces; none may be missing, since they tell the words.
        """
        index = {name: number for number, name in enumerate(self.labels)}
        rows = [(index[tag], not number) for text in texts for number, tag in enumerate(str(text).split(" "))]
        return np.asarray(rows, dtype=np.int64).reshape(-1, 2)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in float32."""
        total = F.cross_entropy(answers.float(), targets[:, 0], ignore_index=UNLABELLED, reduction="sum")
        return total / max(1, len(targets))

    def meter(self) -> Meter:
        """Return a meter of the F1."""
        return SpanMeter(self.labels)

    def changes(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any]
    ) -> NDArray[np.str_]:
        """Return how the labels of every text differ from the teacher's; a text is right if all its labels are."""
        starts = np.flatnonzero(targets[:, 1])
        if not len(starts):
            return np.empty(0, dtype=np.str_)
        predictions, teachers = answers.argmax(1), teacher.argmax(1)
        same, teacher_right, right = (
            np.logical_and.reduceat(equal, starts)
            for equal in (predictions == teachers, teachers == targets[:, 0], predictions == targets[:, 0])
        )
        return np.where(same, "", np.select([teacher_right, right], ["lost", "gained"], "other"))

    def show_answers(self, logits: NDArray[np.float32], targets: NDArray[Any], texts: Sequence[str]) -> list[str]:
        """Return the spans that are predicted for every text, each with its words and its type."""
        codes = logits.argmax(1).astype(np.int64)
        parts = np.split(codes, np.flatnonzero(targets[:, 1])[1:])
        return [self._show(part, text) for part, text in zip(parts, texts, strict=False)]

    def show_label(self, label: str | None, text: str) -> str:
        """Return the true spans of a text."""
        return self._show(self.targets([label])[:, 0], text)

    def _show(self, codes: NDArray[np.int64], text: str) -> str:
        words, types = text.split(" "), types_of(self.labels)
        spans = spans_of(codes, self.labels, np.arange(len(codes)) == 0).tolist()
        shown = [f"{' '.join(words[first : last + 1])} ({types[kind]})" for first, last, kind in spans]
        return "; ".join(shown) or "none"

    def quality(
        self,
        answers: NDArray[np.float32],
        teacher: NDArray[np.float32],
        targets: NDArray[Any],
        bins: int,
    ) -> Quality:
        """Return precision, recall and F1 of spans, also by type, and the accuracy of the words' labels.

        `flip_rate` is the share of words that the teacher labels correctly and the variant does not; `gain_rate` is the
        reverse.
        """
        meter = SpanMeter(self.labels)
        meter.add(answers, targets)
        predictions, teachers = answers.argmax(1), teacher.argmax(1)
        right, teacher_right = predictions == targets[:, 0], teachers == targets[:, 0]
        precision, recall, f1 = meter.figures()
        figures = {
            "entity_f1": f1,
            "precision": precision,
            "recall": recall,
            "word_accuracy": float(right.mean()),
            "flip_rate": float((teacher_right & ~right).mean()),
            "gain_rate": float((right & ~teacher_right).mean()),
        }
        return Quality(
            examples=int(targets[:, 1].sum()), score=f1, agreement=float((predictions == teachers).mean()),
            figures=figures, per_label=meter.by_type(),
        )  # fmt: skip

    @property
    def answer_columns(self) -> str:
        """Return the column of `lissom.serving.pyfunc`."""
        return "`spans`, a JSON list of objects with `start`, `end`, `label`, `text` and `score`, and `truncated`"

    def describe(self) -> str:
        """Return the types of spans."""
        return f"spans of {', '.join(types_of(self.labels))}"

    def count_rows(self, tables: Sequence[Table], tokenizer: Tokenizer, of_targets: Tokenizer | None = None) -> int:
        """Return the number of words."""
        return sum(len(spans) for spans, _ in _words_of(tables))

    def encode(
        self, tables: Sequence[Table], tokenizer: Tokenizer, folder: Path, of_targets: Tokenizer | None = None
    ) -> Encoded:
        """Tokenise and concatenate tables into files below `folder`, which must outlive the result.

        The words of a labelled text are those between its spaces; those of an unlabelled one are found as in serving.
        """
        words = _words_of(tables)
        result: list[NDArray[np.int64]] = []

        def look(encoding: Encoding) -> None:
            result.append(places(encoding, words[len(result)][0]))

        data = encode(tables, tokenizer, self.max_length, lambda _: self._targets(words), folder, look)
        offsets = np.concatenate([[0], np.cumsum([len(spans) for spans, _ in words])]).astype(np.int64)
        return Encoded(
            data.tokens, data.types, data.offsets, data.targets,
            places=np.concatenate([np.empty(0, dtype=np.int64), *result]), row_offsets=offsets,
        )  # fmt: skip

    def _targets(self, words: Sequence[tuple[NDArray[np.int64], str | None]]) -> NDArray[np.int64]:
        parts = [np.empty((0, 2), dtype=np.int64)]
        for spans, tags in words:
            if tags is None:
                rows = np.full((len(spans), 2), UNLABELLED, dtype=np.int64)
                rows[:, 1] = np.arange(len(spans)) == 0
            else:
                rows = self.targets([tags])
            parts.append(rows)
        return np.concatenate(parts)


def _words_of(tables: Sequence[Table]) -> list[tuple[NDArray[np.int64], str | None]]:
    """Return first and last character of every word, `[words, 2]`, and the tags, for all texts of some tables."""
    rows = (row for table in tables for row in zip(table.texts(), table.labels(), strict=True))
    return [(words_of(text) if tags is None else _spaced(text), tags) for (text, _), tags in rows]


def _spaced(text: str) -> NDArray[np.int64]:
    """Return first and last character of every word between spaces, `[words, 2]`."""
    ends = np.cumsum([len(word) + 1 for word in text.split(" ")]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    return np.stack([starts, ends], axis=1).astype(np.int64)
