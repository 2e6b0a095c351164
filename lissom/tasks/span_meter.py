"""The F1 of spans: a span counts if its first word, its last word and its type are right."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lissom.serving.token_classification import spans_of, types_of


class SpanMeter:
    """Counts spans by type, over all texts (micro-averaged, as conlleval does).

    Args:
        labels: the labels of words.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels, self._types = tuple(labels), types_of(labels)
        self._counts = np.zeros((3, len(self._types)), dtype=np.int64)  # right, predicted, true

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Add whole texts: logits `[words, labels]` and targets `[words, 2]`, the label and a mark of first words."""
        begins = targets[:, 1] > 0
        shape = (len(begins), len(begins), len(self._types))
        predicted, true = (
            spans_of(codes, self._labels, begins) for codes in (answers.argmax(1).astype(np.int64), targets[:, 0])
        )
        right = predicted[np.isin(*(np.ravel_multi_index(tuple(spans.T), shape) for spans in (predicted, true)))]
        for row, spans in enumerate((right, predicted, true)):
            self._counts[row] += np.bincount(spans[:, 2], minlength=len(self._types))

    def merge(self, other: Self) -> None:
        """Add the counts of another meter."""
        self._counts += other._counts

    def result(self) -> float:
        """Return the F1."""
        return self.figures()[2]

    def figures(self) -> tuple[float, float, float]:
        """Return precision, recall and F1 over all types; 0 where nothing is predicted or nothing is there."""
        return _figures(*self._counts.sum(1).tolist())

    def by_type(self) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and the number of true spans of every type."""
        figures = {}
        for number, name in enumerate(self._types):
            precision, recall, f1 = _figures(*self._counts[:, number].tolist())
            figures[name] = {
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "support": int(self._counts[2, number]),
            }
        return figures


def _figures(right: int, predicted: int, true: int) -> tuple[float, float, float]:
    return right / max(1, predicted), right / max(1, true), 2 * right / max(1, predicted + true)
