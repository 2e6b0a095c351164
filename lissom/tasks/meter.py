"""Meters: they see answers batch by batch and compute one figure, without ever holding all answers."""

import math
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Meter(Protocol):
    """Adds up what one figure needs."""

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Take in a batch: answers `[batch, outputs]` and targets `[batch]`, all known."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what a meter in another process has seen."""
        ...

    def result(self) -> float:
        """Return the figure."""
        ...


class AccuracyMeter:
    """Share of examples whose largest logit is the target's."""

    def __init__(self) -> None:
        self._hits = self._count = 0

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Count a batch."""
        self._hits += int((answers.argmax(1) == targets).sum())
        self._count += len(targets)

    def merge(self, other: Self) -> None:
        """Count what the other has counted."""
        self._hits += other._hits
        self._count += other._count

    def result(self) -> float:
        """Return the accuracy."""
        return self._hits / self._count


class CorrelationMeter:
    """Pearson's correlation of predicted and true numbers; 0 where one side is constant, which says nothing.

    Keeps one pair of numbers per example: the moments that would be smaller lose digits where the mean is large.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []

    def add(self, answers: NDArray[np.float32], targets: NDArray[Any]) -> None:
        """Keep a batch."""
        self._pairs += zip(answers[:, 0].tolist(), targets.tolist(), strict=True)

    def merge(self, other: Self) -> None:
        """Keep what the other has kept."""
        self._pairs += other._pairs

    def result(self) -> float:
        """Return the correlation, which does not depend on the order of the batches."""
        found, truth = np.asarray(sorted(self._pairs), dtype=np.float64).T
        return pearson(found, truth)


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation, -1 to 1; 0 where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    correlation = float(np.corrcoef(np.asarray(first, np.float64), np.asarray(second, np.float64))[0, 1])
    return correlation if math.isfinite(correlation) else 0.0
