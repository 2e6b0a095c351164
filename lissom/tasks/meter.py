"""Meters: they accumulate a metric batch by batch, without storing all logits."""

import math
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Meter(Protocol):
    """Accumulates a metric."""

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Add whole examples: logits `[rows, outputs]` and targets `[rows]` or `[rows, ...]`, none of them missing."""
        ...

    def merge(self, other: Self) -> None:
        """Add the state of a meter of another process."""
        ...

    def result(self) -> float:
        """Return the metric."""
        ...


class AccuracyMeter:
    """Share of examples whose largest logit is the target's."""

    def __init__(self) -> None:
        self._hits = self._count = 0

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Add a batch: logits `[batch, outputs]` and targets `[batch]`."""
        self._hits += int((answers.argmax(1) == targets).sum())
        self._count += len(targets)

    def merge(self, other: Self) -> None:
        """Add the counts of another meter."""
        self._hits += other._hits
        self._count += other._count

    def result(self) -> float:
        """Return the accuracy."""
        return self._hits / self._count


class CorrelationMeter:
    """Pearson's correlation of predicted and true numbers; 0 if either side is constant.

    Stores a pair of numbers per example, since accumulated moments lose precision if the mean is large.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Add a batch: predictions `[batch, 1]` and targets `[batch]`."""
        self._pairs += zip(answers[:, 0].tolist(), targets.tolist(), strict=True)

    def merge(self, other: Self) -> None:
        """Add the pairs of another meter."""
        self._pairs += other._pairs

    def result(self) -> float:
        """Return the correlation, which does not depend on the order of the batches."""
        predictions, truth = np.asarray(sorted(self._pairs), dtype=np.float64).T
        return pearson(predictions, truth)


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation, in [-1, 1]; 0 if either side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    correlation = float(np.corrcoef(np.asarray(first, np.float64), np.asarray(second, np.float64))[0, 1])
    return correlation if math.isfinite(correlation) else 0.0
