"""Perplexity: the exponential of the mean negative log-probability, per token and per word; and bits per byte."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class PerplexityMeter:
    """Sums of log-probabilities, tokens, bytes and words."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._counts = np.zeros(3, dtype=np.int64)  # tokens, bytes, words

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Add tokens.

        Args:
            answers: log-probability of the token, and most likely token, `[tokens, 2]`.
            targets: token, bytes and words, `[tokens, 3]`.
        """
        self._loss -= float(answers[:, 0].sum(dtype=np.float64))
        self._counts += np.asarray([len(targets), *targets[:, 1:].sum(0)], dtype=np.int64)

    def merge(self, other: Self) -> None:
        """Add the sums of another meter."""
        self._loss += other._loss
        self._counts += other._counts

    def result(self) -> float:
        """Return the perplexity per token."""
        return self.figures()["perplexity"]

    def figures(self) -> dict[str, float]:
        """Return perplexities per token and per word, and bits per byte."""
        tokens, size, words = self._counts.tolist()
        return {
            "perplexity": _exp(self._loss / max(1, tokens)),
            "word_perplexity": _exp(self._loss / max(1, words)),
            "bits_per_byte": self._loss / math.log(2) / max(1, size),
        }


def _exp(value: float) -> float:
    """Return the exponential, or the largest number that is not infinite, which no report could hold."""
    return math.exp(min(value, 700.0))
