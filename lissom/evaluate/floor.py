"""The linear floor: a user should know when no Transformer is needed.

TF-IDF of word 1- and 2-grams and logistic regression (for numbers ridge regression), its strength chosen on dev. For
pairs each text has its own table, and the cosine of their character n-grams is one more feature.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.labels import LabelArray, Scale, label_codes
from lissom.data.score import pearson
from lissom.data.tables import Table
from lissom.section import Section

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
_MOST_FEATURES = 100_000


class Floor(Section):
    """What the linear model reaches."""

    score: float
    """Accuracy, or Pearson's correlation."""
    dev_score: float
    features: int
    strength: float
    milliseconds: float
    """Mean time for one test text."""
    megabytes: float
    """Size of the coefficients and the vocabulary's keys in memory, as float64 and UTF-8."""


def linear_floor(train: Table, dev: Table, test: Table, coding: Sequence[str] | Scale) -> Floor:
    """Fit on train, choose C on dev, report test."""
    tables = {"train": train, "dev": dev, "test": test}
    texts = {name: list(table.texts()) for name, table in tables.items()}
    labels = {name: label_codes(table.labels(), coding) for name, table in tables.items()}
    features = _Features(texts["train"])
    matrices = {name: features(rows) for name, rows in texts.items() if name != "test"}
    best: tuple[float, float, Any] | None = None
    for strength in _STRENGTHS:
        model = _linear_model(strength, coding)
        model.fit(matrices["train"], labels["train"])
        score = _score(model.predict(matrices["dev"]), labels["dev"])
        if best is None or score > best[0]:
            best = (score, strength, model)
    assert best is not None
    started = time.perf_counter()
    predicted = best[2].predict(features(texts["test"]))
    milliseconds = (time.perf_counter() - started) * 1000 / len(test)
    return Floor(
        score=_score(predicted, labels["test"]),
        dev_score=best[0],
        features=matrices["train"].shape[1],
        strength=best[1],
        milliseconds=milliseconds,
        megabytes=(best[2].coef_.nbytes + features.key_bytes()) / 1e6,
    )


def _linear_model(strength: float, coding: Sequence[str] | Scale) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    if isinstance(coding, Scale):
        return Ridge(alpha=1 / strength)
    return LogisticRegression(C=strength, max_iter=300, solver="liblinear" if len(coding) == 2 else "lbfgs")


def _score(found: NDArray[Any], truth: LabelArray) -> float:
    """Return the accuracy of labels, or the correlation of numbers, each `[examples]`."""
    if np.issubdtype(truth.dtype, np.floating):
        return pearson(found, truth)
    return float((found == truth).mean())


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
