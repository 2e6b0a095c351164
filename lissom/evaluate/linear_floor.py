"""The linear floor: TF-IDF of word 1- and 2-grams with logistic regression (ridge regression for numbers).

The regularisation is chosen on dev. For pairs each text has its own features, and the cosine of their character n-grams
is one more feature. Texts without words, such as emoji or single Chinese characters, are taken by their characters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.tables import Table
from lissom.errors import InputError
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import VARIANT, Floor
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.variant import timed_examples
from lissom.tasks.task import Task

LINEAR = "TF-IDF"

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_MOST_FEATURES = 100_000
_FEWEST_WITH_WORDS = 0.5
_WORDS = {"ngram_range": (1, 2)}
_CHARACTERS = {"analyzer": "char", "ngram_range": (1, 3)}
_CHARACTERS_IN_WORDS = {"analyzer": "char_wb", "ngram_range": (3, 5)}

Texts = list[tuple[str, str | None]]


def linear_floor(tables: Mapping[str, Table], task: Task, params: EvaluateParams) -> Floor:
    """Fit on train, choose the regularisation on dev, measure on test.

    The latency is that of single texts, as they come: finding their n-grams is most of it.

    Args:
        tables: `train`, `dev` and `test`.
        task: the task.
        params: time of the latency.

    Raises:
        InputError: there is no linear model for the task, or no character in the texts.
    """
    if task.linear_model(1.0) is None:
        raise InputError(f"there is no linear model for {task.kind}")
    texts = {name: list(table.texts()) for name, table in tables.items()}
    targets = {name: task.targets(table.labels()) for name, table in tables.items()}
    features = _Features(texts["train"])
    matrices = {name: features(texts[name]) for name in ("train", "dev")}
    best: tuple[float, float, Any] | None = None
    for strength in _STRENGTHS:
        model = task.linear_model(strength)
        model.fit(matrices["train"], targets["train"])
        score = _score(task, model.predict(matrices["dev"]), targets["dev"])
        if best is None or task.metric.improves(score, best[0]):
            best = (score, strength, model)
    assert best is not None
    dev_score, strength, model = best

    order = timed_examples(len(texts["test"]))

    def answer(number: int) -> None:
        model.predict(features([texts["test"][order[number]]]))

    times = measure_latency(
        {VARIANT: answer}, [1] * len(order), threads=1, seconds=params.seconds, retries=params.retries
    )
    return Floor(
        model=f"{LINEAR} + {type(model).__name__}",
        score=_score(task, model.predict(features(texts["test"])), targets["test"]),
        dev_score=dev_score,
        settings={"features": matrices["train"].shape[1], "strength": strength},
        latency=times.latency(VARIANT),
        conditions=times.conditions,
        megabytes=(model.coef_.nbytes + features.key_bytes()) / 1e6,
    )


def _score(task: Task, predictions: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the score of a linear model's predictions, each `[examples]`."""
    meter = task.meter()
    meter.add(task.linear_answers(predictions), targets)
    return meter.result()


class _Features:
    def __init__(self, rows: Texts) -> None:
        self._pair = rows[0][1] is not None
        self._tables = [_table(_column(rows, side), _WORDS, _CHARACTERS) for side in range(1 + self._pair)]
        if self._pair:
            both = _column(rows, 0) + _column(rows, 1)
            self._characters = _table(both, _CHARACTERS_IN_WORDS, _CHARACTERS)

    def __call__(self, rows: Texts) -> Any:
        from scipy.sparse import csr_matrix, hstack

        parts = [table.transform(_column(rows, side)) for side, table in enumerate(self._tables)]
        if self._pair:
            first, second = (self._characters.transform(_column(rows, side)) for side in (0, 1))
            cosine: NDArray[np.float64] = np.asarray(first.multiply(second).sum(1))
            parts.append(csr_matrix(cosine))
        return hstack(parts).tocsr()

    def key_bytes(self) -> int:
        tables = [*self._tables, *([self._characters] if self._pair else [])]
        return sum(len(term.encode()) for table in tables for term in table.vocabulary_)


def _table(texts: list[str], *kinds: Mapping[str, Any]) -> Any:
    """Return a vectorizer of the first kind that finds n-grams in at least half of the texts; or else of the last.

    Raises:
        InputError: the last kind finds none at all.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    for kind in kinds:
        table = TfidfVectorizer(**kind, sublinear_tf=True, max_features=_MOST_FEATURES)
        analyze = table.build_analyzer()
        readable = sum(bool(analyze(text)) for text in texts)
        if readable and (kind is kinds[-1] or readable >= _FEWEST_WITH_WORDS * len(texts)):
            return table.fit(texts)
    raise InputError("the texts have no characters")


def _column(rows: Texts, side: int) -> list[str]:
    return [row[side] or "" for row in rows]
