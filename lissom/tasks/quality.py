"""How good the answers of one variant are: the same shape for every task, torch-free."""

from pydantic import Field

from lissom.section import Section


class Quality(Section):
    """The figures of one variant on the test set, in the words of its task."""

    examples: int
    score: float
    """What models of the task are judged by."""
    agreement: float
    """Likeness to the teacher's answers, 1 at most."""
    figures: dict[str, float]
    """By name, the score among them."""
    per_label: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Figures of every label, where there are labels."""
