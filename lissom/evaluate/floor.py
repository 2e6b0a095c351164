"""The linear baseline, which shows whether a task needs a Transformer.

TF-IDF of word 1- and 2-grams with logistic regression (ridge regression for numbers); the regularisation is chosen on
dev. For pairs each text has its own features, and the cosine of their character n-grams is one more feature.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.tables import Table
from lissom.evaluate.figures import Floor
from lissom.tasks.task import Task

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
_MOST_FEATURES = 100_000


def linear_floor(train: Table, dev: Table, test: Table, task: Task) -> Floor | None:
    """Fit on train, choose the regularisation on dev, report test; None for a task without a linear model."""
    if task.linear_model(1.0) is None:
        return None
    tables = {"train": train, "dev": dev, "test": test}
    texts = {name: list(table.texts()) for name, table in tables.items()}
    targets = {name: task.targets(table.labels()) for name, table in tables.items()}
    features = _Features(texts["train"])
    matrices = {name: features(rows) for name, rows in texts.items() if name != "test"}
    best: tuple[float, float, Any] | None = None
    for strength in _STRENGTHS:
        model = task.linear_model(strength)
        model.fit(matrices["train"], targets["train"])
        score = _score(task, model.predict(matrices["dev"]), targets["dev"])
        if best is None or task.metric.improves(score, best[0]):
            best = (score, strength, model)
    assert best is not None
    start = time.perf_counter()
    predictions = best[2].predict(features(texts["test"]))
    milliseconds = (time.perf_counter() - start) * 1000 / len(test)
    return Floor(
        model=f"TF-IDF + {type(best[2]).__name__}",
        score=_score(task, predictions, targets["test"]),
        dev_score=best[0],
        features=matrices["train"].shape[1],
        strength=best[1],
        milliseconds=milliseconds,
        megabytes=(best[2].coef_.nbytes + features.key_bytes()) / 1e6,
    )


def _score(task: Task, predictions: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the score of a linear model's predictions, each `[examples]`."""
    meter = task.meter()
    meter.add(task.linear_answers(predictions), targets)
    return meter.result()


class _Features:
    def __init__(self, rows: list[tuple[str, str | None]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._pair = rows[0][1] is not None
        words = {"ngram_range": (1, 2), "sublinear_tf": True, "max_features": _MOST_FEATURES}
        self._tables = [TfidfVectorizer(**words).fit(_column(rows, side)) for side in range(1 + self._pair)]
        if self._pair:
            characters = {
                "analyzer": "char_wb",
                "ngram_range": (3, 5),
                "sublinear_tf": True,
                "max_features": _MOST_FEATURES,
            }
            self._characters = TfidfVectorizer(**characters).fit(_column(rows, 0) + _column(rows, 1))

    def __call__(self, rows: list[tuple[str, str | None]]) -> Any:
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


def _column(rows: list[tuple[str, str | None]], side: int) -> list[str]:
    return [row[side] or "" for row in rows]
