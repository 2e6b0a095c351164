"""Transfer texts by rules, for a student without pre-training (Tang et al. 2019, §3).

Each word is masked, replaced by a word of the same part of speech (drawn by frequency in training), or kept. A text may
then be cut to an n-gram of 1 to 5 words. In pairs, the first text, the second or both are changed in turn. The teacher
labels the new texts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from lissom.data.tables import Row, Table, write_table
from lissom.distill.augment_config import WordAugmentationParams

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""Maps the words of a text to their parts of speech."""

_LONGEST_NGRAM = 5


def english_tagger(words: Sequence[str]) -> list[str]:
    """Tag English words by textblob's lexicon and rules (its own package data; nothing is downloaded)."""
    from textblob.en import tag

    tags = [kind for _, kind in tag(" ".join(words), tokenize=False)]
    return tags if len(tags) == len(words) else ["?"] * len(words)


def more_texts(
    params: WordAugmentationParams, train: Table, mask: str, folder: Path, tagger: Tagger = english_tagger
) -> Table:
    """Write new unlabelled texts derived from those in `train`, without duplicates and without the original texts.

    Args:
        params: probabilities and copies.
        train: the original texts.
        mask: the mask token.
        folder: folder of the new table.
        tagger: returns parts of speech.
    """
    rng = np.random.default_rng(params.seed)
    texts = list(train.texts())
    words = {text: text.split() for pair in texts for text in pair if text is not None}
    kinds = {text: tagger(tokens) if tokens else [] for text, tokens in words.items()}
    by_kind: dict[str, Counter[str]] = {}
    for text, tokens in words.items():
        for word, kind in zip(tokens, kinds[text], strict=True):
            by_kind.setdefault(kind, Counter())[word] += 1
    draws = {
        kind: (list(counts), np.cumsum(list(counts.values())) / counts.total()) for kind, counts in by_kind.items()
    }

    def changed(text: str) -> str:
        new = [
            _change(word, draws[kind], mask, params, rng) for word, kind in zip(words[text], kinds[text], strict=True)
        ]
        if new and rng.random() < params.ngram_probability:
            size = int(rng.integers(1, _LONGEST_NGRAM + 1))
            start = int(rng.integers(0, max(1, len(new) - size + 1)))
            new = new[start : start + size]
        return " ".join(new)

    def rows() -> Iterator[Row]:
        unique = set(texts)
        for copy, (text, pair) in product(range(params.copies), texts):
            first = changed(text) if pair is None or copy % 3 != 1 else text
            second = pair if pair is None or copy % 3 == 0 else changed(pair)
            if (first, second) not in unique:
                unique.add((first, second))
                yield Row(first, second, None)

    return write_table(folder / "augmented.arrow", rows())


def _change(
    word: str,
    draw: tuple[list[str], np.ndarray],
    mask: str,
    params: WordAugmentationParams,
    rng: np.random.Generator,
) -> str:
    chance = rng.random()
    if chance < params.mask_probability:
        return mask
    if chance < params.mask_probability + params.replace_probability:
        words, cumulative = draw
        return words[int(np.searchsorted(cumulative, rng.random(), side="right"))]
    return word
