"""The number of inferences after which compression has saved the energy that it took."""

from lissom.interval import Interval
from lissom.section import Section


class Payback(Section):
    """Inferences until the energy spent equals the energy saved; None stands for never."""

    inferences: float | None
    low: float | None
    """With the least energy spent and the largest saving of their intervals."""
    high: float | None
    """With the most energy spent and the smallest saving of their intervals; None if that saving is not positive."""
    days: float | None
    requests_per_day: float


def payback(spent: Interval, saved: Interval, requests_per_day: float) -> Payback:
    """Divide the energy of compressing by the energy that one inference saves.

    The bounds combine those of both sides, so that the interval is at least as wide as a 95 % interval.

    Args:
        spent: energy of all compression stages, without the teacher's own training.
        saved: teacher minus artefact for one inference, in the same unit.
        requests_per_day: to convert the payback to days.
    """

    def count(energy: float, saving: float) -> float | None:
        return energy / saving if saving > 0 else None

    inferences = count(spent.value, saved.value)
    return Payback(
        inferences=inferences,
        low=count(spent.low, saved.high),
        high=count(spent.high, saved.low),
        days=None if inferences is None else inferences / requests_per_day,
        requests_per_day=requests_per_day,
    )
