"""Words of similar meaning, from a file of word vectors as GloVe publishes them (Pennington et al. 2014)."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lissom.errors import InputError

_MOST_WORDS = 100_000  # the file is sorted by frequency; TinyBERT takes as many


class WordVectors:
    """Vectors of the most frequent words of a file; each line holds a word and its numbers, separated by spaces.

    Raises:
        InputError: there is no such file, or a line has another format.
    """

    def __init__(self, path: Path, key: str) -> None:
        if not path.is_file():
            raise InputError(f"{key} {path}: no such file; give word vectors as text (glove.6B.50d.txt, say) or null")
        opener = gzip.open if path.suffix == ".gz" else open
        self._words, rows = [], list[NDArray[np.float32]]()
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                word, *numbers = line.rstrip().split(" ")
                try:
                    rows.append(np.asarray(numbers, dtype=np.float32))
                except ValueError:
                    raise InputError(f"{key} {path}, line {number}: not a word and its numbers") from None
                if rows[-1].size < 2 or rows[-1].size != rows[0].size:
                    raise InputError(f"{key} {path}, line {number}: {rows[-1].size} numbers, line 1 has {rows[0].size}")
                self._words.append(word)
                if number == _MOST_WORDS:
                    break
        if not rows:
            raise InputError(f"{key} {path}: the file is empty")
        matrix = np.stack(rows)
        self._matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        self._places = {word: place for place, word in enumerate(self._words)}

    def nearest(self, word: str, count: int) -> list[str]:
        """Return the `count` words nearest by cosine, the word itself among them; none for an unknown word."""
        place = self._places.get(word.lower())
        if place is None:
            return []
        cosines = self._matrix @ self._matrix[place]
        best = np.argsort(-cosines, kind="stable")[:count]
        return [self._words[number] for number in best]
