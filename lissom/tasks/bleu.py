"""BLEU and chrF of whole test sets, by sacrebleu, from counts per sentence that a resample only has to add up.

BLEU: Papineni et al. 2002, with sacrebleu's tokenizer 13a and smoothing of orders without a match (Post 2018,
arXiv:1804.08771); chrF2: Popovic 2015. Both are shares in [0, 1] here.
"""

from functools import cache, lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_ORDERS = 4


class BleuMeter:
    """Matches and counts of n-grams, and lengths of answers and references."""

    def __init__(self) -> None:
        self._counts = np.zeros(2 * _ORDERS + 2, dtype=np.int64)

    def add(self, answers: NDArray[Any], targets: NDArray[Any]) -> None:
        """Add translations and references, both texts, `[examples]`."""
        for answer, reference in zip(answers, targets, strict=True):
            self._counts += _counts_of(answer, reference)

    def merge(self, other: Self) -> None:
        """Add the counts of another meter."""
        self._counts += other._counts

    def result(self) -> float:
        """Return BLEU, in [0, 1]."""
        from sacrebleu.metrics.bleu import BLEU

        matches, totals = self._counts[:_ORDERS].tolist(), self._counts[_ORDERS : 2 * _ORDERS].tolist()
        length, reference = self._counts[2 * _ORDERS :].tolist()
        score = BLEU.compute_bleu(matches, totals, length, reference, smooth_method="exp")
        return float(score.score) / 100

    def length_ratio(self) -> float:
        """Return the length of the translations over that of the references, in words."""
        length, reference = self._counts[2 * _ORDERS :].tolist()
        return float(length / max(1, reference))


@lru_cache(maxsize=2**17)
def _counts_of(answer: str, reference: str) -> NDArray[np.int64]:
    """Return matches and counts of n-grams of every order, and both lengths, `[10]`."""
    score = _sentence_bleu().sentence_score(answer, [reference])
    return np.asarray([*score.counts, *score.totals, score.sys_len, score.ref_len], dtype=np.int64)


@cache
def _sentence_bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


def chrf(answers: NDArray[Any], references: NDArray[Any]) -> float:
    """Return chrF2 of some translations, in [0, 1]."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(answers), [list(references)]).score) / 100


def sentence_chrf(answer: str, reference: str) -> float:
    """Return chrF2 of one translation, in [0, 1]."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(answer, [reference]).score) / 100
