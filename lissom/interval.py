"""Values with 95 % confidence intervals, by bootstrap (Efron 1979): no distribution is assumed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.section import Section

RESAMPLES = 2000
_BOUNDS = (2.5, 97.5)


class Interval(Section):
    """A value and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Return whether a value lies outside the interval."""
        return value < self.low or value > self.high


def resamples(samples: int, count: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield `count` resamples, each an array `[samples]` of indices, some of which repeat; always the same ones."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.integers(0, samples, samples)


def interval_of(value: float, values: Iterable[float]) -> Interval:
    """Return the interval of a statistic, given its value for all samples and its values for resamples."""
    low, high = np.percentile(np.fromiter(values, dtype=np.float64), _BOUNDS)
    # With few samples a statistic such as the median may lie outside the bulk of its resamples.
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], samples: int) -> Interval:
    """Return a statistic of all samples and the percentiles of its values over resamples.

    Args:
        statistic: takes indices of samples, `[samples]`, which repeat in a resample. Pairs of measurements that
            belong together have the same index, so that what they share cancels.
        samples: number of samples.
    """
    value = float(statistic(np.arange(samples)))
    return interval_of(value, (statistic(indices) for indices in resamples(samples)))


def ratio_of_medians(numerators: Any, denominators: Any) -> Interval:
    """Return the ratio of the medians of paired measurements, each `[samples]`, resampled in pairs."""
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    return bootstrap(lambda indices: float(np.median(top[indices]) / np.median(bottom[indices])), len(top))
