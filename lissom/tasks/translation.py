"""Translation of a text by an encoder-decoder; the metric is BLEU of the texts that a model writes.

A model is trained on the tokens of the translations, each predicted from those before it (targets `[tokens]`), with
label smoothing. It is judged by what it writes by itself: greedily in torch, with a beam in an exported file.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from lissom.data.encoding import Encoded, Written, map_array
from lissom.data.tables import Table
from lissom.tasks.bleu import BleuMeter, chrf, sentence_chrf
from lissom.tasks.meter import Meter
from lissom.tasks.metric import BLEU, Metric
from lissom.tasks.next_token import NextToken
from lissom.tasks.quality import Quality
from lissom.tasks.task import Answering, Task

LABEL_SMOOTHING = 0.1
"""Share of a target that is spread over all tokens (Vaswani et al. 2017, arXiv:1706.03762, §5.4)."""
_TEXTS_PER_CALL = 256


class Translation(NextToken):
    """Translation; the outputs are logits of the next token of the translation."""

    kind: Literal["translation"] = "translation"
    start_id: int = 0
    """The token that a decoder reads first."""

    def with_tokens(self, kept: Sequence[int]) -> Self:
        """Return the task with the new number of the first token."""
        return self.model_copy(update={"start_id": list(kept).index(self.start_id)})

    @property
    def metric(self) -> Metric:
        """Return BLEU."""
        return BLEU

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of encoder-decoders."""
        return AutoModelForSeq2SeqLM

    @property
    def writes_texts(self) -> bool:
        """Return true."""
        return True

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy with label smoothing in float32, averaged over tokens."""
        return self._cross_entropy(answers, targets, smoothing=LABEL_SMOOTHING)

    def answers(self, model: Answering, batch: Any, data: Encoded) -> NDArray[Any]:
        """Return the texts that a model writes, `[batch]`."""
        assert data.written is not None
        texts = data.written.decode(model.generate(batch))
        return np.asarray([text.strip() for text in texts], dtype=object)

    def meter(self) -> Meter:
        """Return a meter of BLEU."""
        return BleuMeter()

    def changes(self, answers: NDArray[Any], teacher: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.str_]:
        """Return which translations are further from the reference by chrF (`lost`), nearer (`gained`) or as near."""
        result = []
        for answer, other, reference in zip(answers, teacher, targets, strict=True):
            if answer == other:
                result.append("")
                continue
            gain = sentence_chrf(answer, reference) - sentence_chrf(other, reference)
            result.append("gained" if gain > 0 else "lost" if gain < 0 else "other")
        return np.asarray(result, dtype=np.str_)

    def show_answers(
        self,
        logits: NDArray[Any],
        targets: NDArray[Any],
        texts: Sequence[str],
    ) -> list[str]:
        """Return the translations."""
        return list(logits)

    def quality(
        self,
        answers: NDArray[Any],
        teacher: NDArray[Any],
        targets: NDArray[Any],
        bins: int,
    ) -> Quality:
        """Return BLEU, chrF and the length of the translations over the references'."""
        meter = BleuMeter()
        meter.add(answers, targets)
        figures = {"bleu": meter.result(), "chrf": chrf(answers, targets), "length_ratio": meter.length_ratio()}
        same = float((answers == teacher).mean())
        return Quality(examples=len(targets), score=figures["bleu"], agreement=same, figures=figures)

    def same_question(self, other: Task) -> bool:
        """Return whether the other task is translation too; the languages are not known."""
        return isinstance(other, Translation)

    def describe(self) -> str:
        """Return what is predicted."""
        return "the translation of a text"

    @property
    def answer_columns(self) -> str:
        """Return the column of `lissom.serving.pyfunc`."""
        return "`translation`"

    def serving(self) -> dict[str, Any]:
        """Return the first token and the entries of every task."""
        return {**super().serving(), "start_id": self.start_id}

    def count_rows(self, tables: Sequence[Table], tokenizer: Tokenizer, of_targets: Tokenizer | None = None) -> int:
        """Return the number of predicted tokens."""
        return sum(len(target) for _, target in self._pairs(tables, tokenizer, of_targets))

    def encode(
        self, tables: Sequence[Table], tokenizer: Tokenizer, folder: Path, of_targets: Tokenizer | None = None
    ) -> Encoded:
        """Tokenise texts and translations, in files below `folder`, which must outlive the result.

        A text without a translation has no targets.
        """
        folder.mkdir(parents=True, exist_ok=True)
        sizes: list[tuple[int, int]] = []
        with (folder / "tokens.i32").open("wb") as tokens, (folder / "targets.i64").open("wb") as targets:
            for source, target in self._pairs(tables, tokenizer, of_targets):
                sizes.append((len(source), len(target)))
                np.asarray(source, dtype=np.int32).tofile(tokens)
                np.asarray(target, dtype=np.int64).tofile(targets)
        columns = np.reshape(np.asarray(sizes, dtype=np.int64), (-1, 2)).T
        offsets, row_offsets = (np.concatenate([[0], np.cumsum(column)]) for column in columns)
        places = np.arange(row_offsets[-1]) - np.repeat(row_offsets[:-1], columns[1])
        references = [label or "" for table in tables for label in table.labels()]
        return Encoded(
            map_array(folder / "tokens.i32", np.int32, (int(offsets[-1]),)),
            np.zeros(int(offsets[-1]), dtype=np.uint8),
            offsets,
            map_array(folder / "targets.i64", np.int64, (int(row_offsets[-1]),)),
            places=places,
            row_offsets=row_offsets,
            start_id=self.start_id,
            written=Written(np.asarray(references, dtype=object), decoder_of(tokenizer)),
        )

    def _pairs(
        self, tables: Sequence[Table], tokenizer: Tokenizer, of_targets: Tokenizer | None
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the token ids of every text and of its translation, each at most `max_length` long."""
        writer = tokenizer if of_targets is None else of_targets
        for each in (tokenizer, writer):
            each.no_padding()
            each.enable_truncation(self.max_length)
        rows = (row for table in tables for row in zip(table.texts(), table.labels(), strict=True))
        while chunk := list(islice(rows, _TEXTS_PER_CALL)):
            sources = tokenizer.encode_batch([text for (text, _), _ in chunk])
            targets = writer.encode_batch([label or "" for _, label in chunk])
            for source, target, (_, label) in zip(sources, targets, chunk, strict=True):
                yield source.ids, [] if label is None else target.ids


def decoder_of(tokenizer: Tokenizer) -> Any:
    """Return a function from token ids to texts; later changes of the tokenizer's padding do not matter to it."""

    def decode(tokens: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = tokenizer.decode_batch([list(ids) for ids in tokens], skip_special_tokens=True)
        return texts

    return decode
