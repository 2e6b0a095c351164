"""Intervals of a variant's score against the teacher's, and the texts whose answers changed.

Both models answer the same test examples, so that examples are resampled in pairs: what makes an example hard for both
cancels, and the interval of the difference is much narrower than those of the two scores.
"""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lissom.artifacts import write_text
from lissom.data.tables import Table
from lissom.interval import Interval, interval_of, resamples
from lissom.section import Section
from lissom.tasks.metric import Metric

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
    task: "Task",
    answers: NDArray[np.float32],
    reference: NDArray[np.float32],
    data: "Encoded",
    reference_data: "Encoded | None" = None,
) -> Paired:
    """Compare the scores of two models with 95 % intervals.

    Language models that read the texts as other tokens are compared text by text, and both perplexities are per token
    of the reference.

    Args:
        task: the task, which gives the metric.
        answers: logits of the variant, `[rows, outputs]`.
        reference: logits of the teacher or of the champion, `[rows, outputs]`.
        data: the examples, which are resampled whole.
        reference_data: the same as the reference reads them; None is the same as `data`.
    """
    metric = task.metric
    if reference_data is not None and not np.array_equal(data.targets, reference_data.targets):
        return _compare_by_texts(metric, (reference, reference_data), (answers, data))

    def both(indices: NDArray[np.int64]) -> tuple[float, float]:
        scores, rows = [], data.rows_of(indices)
        for logits in (reference, answers):
            meter = task.meter()
            meter.add(logits[rows], data.targets[rows])
            scores.append(meter.result())
        return scores[0], scores[1]

    full = both(np.arange(len(data)))
    return _intervals(metric, full, [both(indices) for indices in resamples(len(data), _RESAMPLES)])


def _compare_by_texts(metric: Metric, *sides: "tuple[NDArray[np.float32], Encoded]") -> Paired:
    """Compare a reference and a model with other tokens, in this order."""
    numbers = [data.text_numbers for _, data in sides]
    assert all(texts is not None for texts in numbers), "rows differ only between language models"
    count = 1 + max(int(texts.max()) for texts in numbers if texts is not None)
    # Sums of a text are all that is needed of it: minus the log-probability, tokens, bytes and words.
    sums = []
    for logits, data in sides:
        per_row = np.concatenate([-logits[:, :1], np.ones((len(logits), 1))], axis=1, dtype=np.float64)
        of_text = np.repeat(np.asarray(data.text_numbers), data.row_counts(np.arange(len(data))))
        sums.append(np.stack([np.bincount(of_text, column, minlength=count) for column in per_row.T], axis=1))

    def both(texts: NDArray[np.int64]) -> tuple[float, float]:
        (before, tokens), (after, _) = (total[texts].sum(0) for total in sums)
        return math.exp(min(before / max(1, tokens), 700)), math.exp(min(after / max(1, tokens), 700))

    return _intervals(metric, both(np.arange(count)), [both(texts) for texts in resamples(count, _RESAMPLES)])


def _intervals(metric: Metric, full: tuple[float, float], pairs: list[tuple[float, float]]) -> Paired:
    """Return the intervals of two scores, given for all examples and for resamples."""
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
