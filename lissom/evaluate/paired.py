"""Intervals of a variant's score against the teacher's, and the texts whose answers changed.

Both models answer the same test examples, so that examples are resampled in pairs: what makes an example hard for both
cancels, and the interval of the difference is much narrower than those of the two scores.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lissom.artifacts import write_text
from lissom.data.tables import Table
from lissom.interval import Interval, interval_of, resamples
from lissom.section import Section

if TYPE_CHECKING:  # the results are read where there is no torch
    from lissom.data.encoding import Encoded
    from lissom.tasks.task import Task

_RESAMPLES = 1000


class Paired(Section):
    """A score against the teacher's on the same examples."""

    drop: Interval
    """How much worse the score is than the teacher's, in the metric's unit; negative if it is better."""
    kept: Interval | None
    """Share of the teacher's score that is retained; None if the teacher's score may be 0, where it has no meaning."""


def compare_scores(
    task: "Task", answers: NDArray[np.float32], reference: NDArray[np.float32], data: "Encoded"
) -> Paired:
    """Compare the scores of two models with 95 % intervals.

    Args:
        task: the task, which gives the metric.
        answers: logits of the variant, `[rows, outputs]`.
        reference: logits of the teacher or of the champion, `[rows, outputs]`.
        data: the examples, which are resampled whole.
    """
    metric = task.metric

    def both(indices: NDArray[np.int64]) -> tuple[float, float]:
        scores, rows = [], data.rows_of(indices)
        for logits in (reference, answers):
            meter = task.meter()
            meter.add(logits[rows], data.targets[rows])
            scores.append(meter.result())
        return scores[0], scores[1]

    full = both(np.arange(len(data)))
    pairs = [both(indices) for indices in resamples(len(data), _RESAMPLES)]
    drop = interval_of(metric.drop(*full), (metric.drop(*pair) for pair in pairs))
    if min(before for before, _ in (full, *pairs)) <= 0:
        return Paired(drop=drop, kept=None)
    return Paired(drop=drop, kept=interval_of(metric.kept(*full), (metric.kept(*pair) for pair in pairs)))


def changed_answers(
    task: "Task", answers: NDArray[np.float32], reference: NDArray[np.float32], data: "Encoded", table: Table
) -> list[dict[str, str]]:
    """Return the examples whose answer differs from the teacher's: texts, label, both answers and the kind of change.

    The kind is `lost` (the teacher is right and the variant wrong), `gained` (the reverse) or `other`; lost ones first.
    """
    changes = task.changes(answers, reference, data.targets)
    order = {"lost": 0, "gained": 1, "other": 2}
    places = sorted(np.flatnonzero(changes != "").tolist(), key=lambda place: (order[str(changes[place])], place))
    lines = data.rows_of(np.asarray(places, dtype=np.int64))
    shown = list(table.rows(places))
    first = [row.text for row in shown]
    before, after = (task.show_answers(logits[lines], data.targets[lines], first) for logits in (reference, answers))
    rows = []
    for number, row in enumerate(shown):
        texts = {"text": row.text} if row.text_pair is None else {"text": row.text, "text_pair": row.text_pair}
        answer = {"label": task.show_label(row.label, row.text), "teacher": before[number], "variant": after[number]}
        rows.append({**texts, **answer, "change": str(changes[places[number]])})
    return rows


def write_changes(path: Path, rows: list[dict[str, str]], *, pair: bool) -> None:
    """Write changed answers as CSV, atomically."""
    columns = ["text", *(["text_pair"] if pair else []), "label", "teacher", "variant", "change"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_changes(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows that `write_changes` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
