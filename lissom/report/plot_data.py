"""Data of the plots that DVC draws, as lists of records with the same fields; the templates are in `.dvc/plots`."""

from collections.abc import Mapping, Sequence
from typing import Any

from lissom.report.ledger import Ledger
from lissom.tasks.quality import Quality

Point = tuple[str, float, float]
"""Name, median latency in milliseconds, score on the test set."""

_CURVE = ("step", "epoch", "loss", "learning_rate", "dev_score")


def curves(history: Sequence[Mapping[str, float]]) -> list[dict[str, float | None]]:
    """Return the records of trainings (`Hook.on_record`), with None for the metrics that a record does not have.

    DVC reads no file whose records have different fields.
    """
    return [{name: record.get(name) for name in _CURVE} for record in history]


def points(ledger: Ledger) -> tuple[list[Point], list[Point]]:
    """Return the points of the chain of steps, and of the teacher without training: in eager torch, and in int8."""
    steps = [(marked(row.step, row.disturbed), row.milliseconds.value, row.score) for row in ledger.rows]
    strongest, disturbed = ledger.plain_int8[0], ledger.headline.conditions.disturbed
    return steps, [
        (marked("teacher, eager torch", disturbed), ledger.eager_milliseconds, ledger.rows[0].score),
        (marked("teacher, plain int8", disturbed), strongest.milliseconds, strongest.score),
    ]


def marked(name: str, disturbed: str | None) -> str:
    """Return a name for a plot, with a mark if other load disturbed what is drawn."""
    return name if disturbed is None else f"{name} (disturbed)"


def score_over_latency(steps: Sequence[Point], baselines: Sequence[Point]) -> list[dict[str, Any]]:
    """Return a record per point: the chain of steps in order, then the baselines that need no training."""
    points = [("step", *point) for point in steps] + [("baseline", *point) for point in baselines]
    return [
        {"variant": name, "kind": kind, "number": number, "milliseconds": milliseconds, "score": score}
        for number, (kind, name, milliseconds, score) in enumerate(points)
    ]


def confusion(quality: Quality) -> list[dict[str, Any]]:
    """Return a record per pair of actual and predicted label: the count, and its share of the actual label's examples.

    Empty for tasks without labels of texts.
    """
    if not quality.confusion:
        return []
    labels = list(quality.per_label)
    return [
        {"actual": actual, "predicted": predicted, "count": count, "share": count / max(1, sum(row))}
        for actual, row in zip(labels, quality.confusion, strict=True)
        for predicted, count in zip(labels, row, strict=True)
    ]
