"""The figure that models of a task are judged by. The only place that knows whether higher or lower is better."""

from typing import Literal

from lissom.section import Section


class Metric(Section):
    """One figure: its name, its direction, and how people write it."""

    name: str
    higher_is_better: bool = True
    form: Literal["percent", "number"] = "number"
    """`percent`: a share, shown as a percentage; its changes are told in points."""

    def improves(self, new: float, old: float) -> bool:
        """Return whether `new` is strictly better than `old`."""
        return new > old if self.higher_is_better else new < old

    def best(self, *values: float) -> float:
        """Return the best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def drop(self, reference: float, value: float) -> float:
        """Return how much worse `value` is than `reference`; negative where it is better.

        In the metric's own unit (0.02: two points) where higher is better, relative to the reference where lower is
        (0.02: a perplexity that is 2 % higher), since such figures have no natural scale.
        """
        return reference - value if self.higher_is_better else value / reference - 1

    def worst_allowed(self, reference: float, drop: float) -> float:
        """Return the value that is worse than `reference` by exactly `drop`."""
        return reference - drop if self.higher_is_better else reference * (1 + drop)

    def kept(self, reference: float, value: float) -> float:
        """Return which share of the reference's quality a value keeps: 1 is all of it, more is an improvement."""
        return value / reference if self.higher_is_better else reference / value

    def show(self, value: float) -> str:
        """Return a value as people write it."""
        return f"{value:.1%}" if self.form == "percent" else f"{value:.3f}"

    def show_change(self, before: float, after: float) -> str:
        """Return a signed difference, in points for percentages."""
        return f"{(after - before) * 100:+.1f}" if self.form == "percent" else f"{after - before:+.3f}"


ACCURACY = Metric(name="accuracy", form="percent")
PEARSON = Metric(name="pearson")
