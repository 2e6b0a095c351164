"""Claims over seeds: an estimate with its 95 % interval, held to a bar by the worse bound."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, variance
from typing import Any

from lissom.interval import Interval

FEWEST_SEEDS = 3
_CONFIDENCE = 0.95


@dataclass
class PerSeed:
    """A figure by seed, with what is known of the rows that it is taken from."""

    values: dict[int, float] = field(default_factory=dict)
    old: bool = False
    """Whether a row is older than the code that it measures."""
    machines: frozenset[str] = frozenset()


def undisturbed(figure: PerSeed, marks: PerSeed) -> PerSeed:
    """Return a figure without the seeds that are marked, whose measurement other load disturbed."""
    kept = {seed: value for seed, value in figure.values.items() if not marks.values.get(seed)}
    return replace(figure, values=kept)


def paired(function: Callable[..., float], *figures: PerSeed) -> PerSeed:
    """Return a function of figures, seed by seed, so that what a seed changes in all of them cancels."""
    seeds = set.intersection(*(set(figure.values) for figure in figures))
    return PerSeed(
        {seed: function(*(figure.values[seed] for figure in figures)) for seed in sorted(seeds)},
        old=any(figure.old for figure in figures),
        machines=frozenset().union(*(figure.machines for figure in figures)),
    )


def claim(figures: PerSeed | Sequence[PerSeed], unit: str, bar: str | None, *, exact: bool = False) -> dict[str, Any]:
    """Return a claim: the mean over seeds, its interval, and whether the worse bound holds the bar.

    Args:
        figures: a figure by seed; or several, one for each data set, whose means are averaged.
        unit: unit of the figure.
        bar: a comparison such as '>= 12', or a range such as '0.8 to 1.25'; None only tells the figure.
        exact: the figure is a count that chance does not move: one run is enough, and there is no interval.
    """
    strata = [figures] if isinstance(figures, PerSeed) else list(figures)
    samples = [list(figure.values.values()) for figure in strata]
    fewest = min(map(len, samples))
    outcome: dict[str, Any] = {
        "value": None, "low": None, "high": None, "unit": unit, "bar": bar, "seeds": fewest, "holds": "not measured",
        "old": any(figure.old for figure in strata),
        "machines": sorted(frozenset().union(*(figure.machines for figure in strata))),
    }  # fmt: skip
    if not fewest:
        return outcome
    outcome["value"] = mean(map(mean, samples))
    low = high = outcome["value"]
    if not exact and fewest > 1:
        interval = over_seeds(samples)
        outcome["low"], outcome["high"] = low, high = interval.low, interval.high
    if bar is None:
        outcome["holds"] = "no bar"
    elif not exact and fewest < FEWEST_SEEDS:
        outcome["holds"] = "not enough seeds"
    else:
        outcome["holds"] = "yes" if _holds(bar, low, high) else "no"
    return outcome


def _holds(bar: str, low: float, high: float) -> bool:
    """Return whether both bounds of an interval pass a bar."""
    match bar.split():
        case [">=", least]:
            return low >= float(least)
        case ["<=", most]:
            return high <= float(most)
        case [least, "to", most]:
            return float(least) <= low and high <= float(most)
        case _:
            raise ValueError(f"{bar!r} is no bar; write '>= 12', '<= 12' or '0.8 to 1.25'")


def over_seeds(samples: Sequence[Sequence[float]]) -> Interval:
    """Return the mean of the samples' means with its interval of Student's t.

    Three to five seeds are too few for a bootstrap, whose intervals cover far less than 95 % there: they cannot leave
    the range of the seeds. Student's t assumes normal deviations instead. Each sample, of two seeds or more, is a data
    set of its own: differences between data sets are no chance, so that the variances of the means are added, with
    the degrees of freedom of Welch and Satterthwaite, rounded down.
    """
    value = mean(map(mean, samples))
    shares = [variance(sample) / len(sample) for sample in samples]
    if not sum(shares):
        return Interval(value=value, low=value, high=value)
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, samples, strict=True)
    )
    # Rounding must not take a whole degree away.
    half = student_t(max(1, math.floor(freedom + 1e-9))) * math.sqrt(sum(shares)) / len(samples)
    return Interval(value=value, low=value - half, high=value + half)


def student_t(freedom: int) -> float:
    """Return the t that 95 % of Student's distribution lie within, for a number of degrees of freedom."""
    low, high = 0.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < _CONFIDENCE else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return P(|T| <= t) (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term = total = math.cos(angle) if freedom % 2 else 1.0
    for step in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
