"""Quality of a variant, in the same form for every task; imports no torch."""

from pydantic import Field

from lissom.section import Section


class Quality(Section):
    """Metrics of one variant on the test set."""

    examples: int
    score: float
    """Value of the task's metric."""
    agreement: float | None
    """Agreement with the teacher, at most 1; None where it predicts other tokens."""
    figures: dict[str, float]
    """All metrics by name, including the score."""
    per_label: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Metrics of every label; empty in regression."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Number of examples by actual label (rows) and predicted label (columns), in the order of `per_label`."""
