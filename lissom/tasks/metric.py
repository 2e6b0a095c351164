"""The metric of a task: its direction, and how its values are compared and shown."""

from typing import Literal

from lissom.section import Section


class Metric(Section):
    """Name, direction and format of a metric."""

    name: str
    higher_is_better: bool = True
    form: Literal["percent", "points", "number"] = "number"
    """`percent`: a share, shown as a percentage, with changes in percentage points; `points`: the same without `%`."""

    def improves(self, new: float, old: float) -> bool:
        """Return whether `new` is strictly better than `old`."""
        return new > old if self.higher_is_better else new < old

    def best(self, *values: float) -> float:
        """Return the best of some values."""
        return max(values) if self.higher_is_better else min(values)

    def drop(self, reference: float, value: float) -> float:
        """Return how much worse `value` is than `reference`; negative if it is better.

        The drop is absolute if higher is better (0.02 is two points of accuracy), and relative to the reference if
        lower is better (0.02 is a perplexity that is 2 % higher), since such metrics have no natural scale.
        """
        return reference - value if self.higher_is_better else value / reference - 1

    def worst_allowed(self, reference: float, drop: float) -> float:
        """Return the value that is worse than `reference` by exactly `drop`."""
        return reference - drop if self.higher_is_better else reference * (1 + drop)

    def kept(self, reference: float, value: float) -> float:
        """Return the share of the reference's quality that a value retains; above 1 it is an improvement."""
        return value / reference if self.higher_is_better else reference / value

    def show(self, value: float) -> str:
        """Return a value as text."""
        match self.form:
            case "percent":
                return f"{value:.1%}"
            case "points":
                return f"{value * 100:.1f}"
            case _:
                return f"{value:.3f}"

    def show_change(self, before: float, after: float) -> str:
        """Return a signed difference as text, in points for shares."""
        return f"{after - before:+.3f}" if self.form == "number" else f"{(after - before) * 100:+.1f}"

    def show_drop(self, drop: float) -> str:
        """Return a drop as the signed change of the value, in percent of the reference where drops are relative."""
        return self.show_change(drop, 0) if self.higher_is_better else f"{drop:+.1%}"

    def show_drops(self, low: float, high: float) -> str:
        """Return the bounds of a drop as changes of the value, the smaller one first."""
        first, last = (high, low) if self.higher_is_better else (low, high)
        return f"{self.show_drop(first)} to {self.show_drop(last)}"


ACCURACY = Metric(name="accuracy", form="percent")
BLEU = Metric(name="bleu", form="points")
ENTITY_F1 = Metric(name="entity_f1", form="percent")
PERPLEXITY = Metric(name="perplexity", higher_is_better=False)
PEARSON = Metric(name="pearson")
