"""The number of inferences after which compression has saved the energy that it took."""

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
    """With the largest saving in the confidence interval."""
    high: float | None
    """With the smallest saving in the confidence interval; None if that is not positive."""
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
        spent_kwh: energy of all compression stages, without the teacher's own training.
        saved_kwh_per_inference: teacher minus artefact, paired by repetition.
        requests_per_day: to convert the payback to days.
    """

    def count(saving: float) -> float | None:
        return spent_kwh / saving if saving > 0 else None

    inferences = count(saved_kwh_per_inference.mean)
    return Payback(
        inferences=inferences,
        low=count(saved_kwh_per_inference.high),
        high=count(saved_kwh_per_inference.low),
        days=None if inferences is None else inferences / requests_per_day,
        requests_per_day=requests_per_day,
    )
