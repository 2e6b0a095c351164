"""After how many inferences has compressing paid for itself?"""

import math
import statistics
from collections.abc import Sequence

from lissom.section import Section


class Interval(Section):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    samples: int


class Payback(Section):
    """Inferences until the energy spent equals the energy saved; None stands for never."""

    inferences: float | None
    low: float | None
    """With the largest saving that the interval allows."""
    high: float | None
    """With the smallest saving that the interval allows; None if that is no saving at all."""
    days: float | None
    requests_per_day: float


def interval(samples: Sequence[float]) -> Interval:
    """Return mean and 95 % interval (Student's t) of three or more repetitions."""
    from scipy.stats import t as student_t

    assert len(samples) >= 3, "an interval needs three repetitions"
    mean, freedom = statistics.fmean(samples), len(samples) - 1
    half = float(student_t.ppf(0.975, freedom)) * statistics.stdev(samples) / math.sqrt(len(samples))
    return Interval(mean=mean, low=mean - half, high=mean + half, samples=len(samples))


def payback(spent_kwh: float, saved_kwh_per_inference: Interval, requests_per_day: float) -> Payback:
    """Divide the energy of compressing by the energy that one inference saves.

    Args:
        spent_kwh: energy of all compressing stages; the teacher's own training is told separately.
        saved_kwh_per_inference: teacher minus artefact, paired by repetition.
        requests_per_day: to tell the payback in days.
    """

    def needed(saved: float) -> float | None:
        return spent_kwh / saved if saved > 0 else None

    inferences = needed(saved_kwh_per_inference.mean)
    return Payback(
        inferences=inferences,
        low=needed(saved_kwh_per_inference.high),
        high=needed(saved_kwh_per_inference.low),
        days=None if inferences is None else inferences / requests_per_day,
        requests_per_day=requests_per_day,
    )
