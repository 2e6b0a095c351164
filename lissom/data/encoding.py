"""Token ids on disk: a split is tokenised once per stage into memory-mapped arrays.

The arrays are flat with offsets, since random access to a memory map reads only the pages of the requested rows, while
random access to a chunked Arrow list column copies chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from lissom.data.labels import labelled
from lissom.data.tables import Table

_ROWS_PER_CALL = 1024


@dataclass(frozen=True)
class Written:
    """What answers that are texts are judged by."""

    references: NDArray[np.object_]
    """The texts of the labels, `[examples]`."""
    decode: Callable[[Sequence[Sequence[int]]], list[str]]
    """Returns the texts of token ids, without special tokens."""


@dataclass(frozen=True)
class Encoded:
    """The token ids of one split, or of several concatenated splits."""

    tokens: NDArray[np.int32]
    """Concatenated token ids of all examples, `[sum of lengths]`."""
    types: NDArray[np.uint8]
    """Segment of every token (0 first text, 1 second), `[sum of lengths]`."""
    offsets: NDArray[np.int64]
    """Example i is `tokens[offsets[i]:offsets[i + 1]]`, `[examples + 1]`."""
    targets: NDArray[Any]
    """`[rows]`, or `[rows, ...]`, from `Task.targets`: one row for every example, or for every word of it."""
    places: NDArray[np.int64] | None = None
    """Where the outputs of a row are read: position of a token in its example, -1 for nowhere, `[rows]`. None: the
    outputs of a network are one row for every example."""
    row_offsets: NDArray[np.int64] | None = None
    """With `places`: the rows of example i are `targets[row_offsets[i]:row_offsets[i + 1]]`, `[examples + 1]`."""
    start_id: int | None = None
    """Where a decoder writes the targets: the token before the first of them."""
    written: Written | None = None
    """Set where answers are texts."""
    text_numbers: NDArray[np.int64] | None = None
    """The text that every example is a part of, ascending, `[examples]`; None: the examples are whole texts."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every example in tokens, `[examples]`."""
        return np.diff(self.offsets)

    @property
    def judged(self) -> "Encoded":
        """Return the examples with the targets that metrics need: of written answers the texts, a row for each."""
        if self.written is None:
            return self
        return replace(self, targets=self.written.references, places=None, row_offsets=None)

    def labelled(self, count: int) -> NDArray[np.int64]:
        """Return the indices of `count` labelled examples, evenly spaced, so that sorted files give all labels."""
        rows = labelled(self.targets)
        if self.row_offsets is not None:
            rows = np.diff(np.concatenate([[0], np.cumsum(rows)])[self.row_offsets]) > 0
        indices = np.flatnonzero(rows)
        return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(np.int64)]

    def rows_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of targets of some examples, one example after the other."""
        return rows_of(indices, self.row_offsets)

    def row_counts(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many rows of targets some examples have, `[examples]`."""
        if self.row_offsets is None:
            return np.ones(len(indices), dtype=np.int64)
        return self.row_offsets[indices + 1] - self.row_offsets[indices]


def rows_of(indices: NDArray[np.int64], row_offsets: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the rows of some examples, one example after the other.

    Args:
        indices: the examples.
        row_offsets: first row of every example, and the end, `[examples + 1]`; None if each has one row.
    """
    if row_offsets is None:
        return indices
    starts, counts = row_offsets[indices], row_offsets[indices + 1] - row_offsets[indices]
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rows: NDArray[np.int64] = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return rows


def encode(
    tables: Sequence[Table],
    tokenizer: Tokenizer,
    max_length: int,
    targets: Callable[[Sequence[str | None]], NDArray[Any]],
    folder: Path,
    look: Callable[[Encoding], None] | None = None,
) -> Encoded:
    """Tokenise and concatenate tables into files below `folder`, which must outlive the result.

    Args:
        tables: the tables.
        tokenizer: the tokenizer.
        max_length: longest example in tokens; longer ones are truncated.
        targets: maps the labels' texts to targets.
        folder: folder of the memory-mapped files.
        look: called with every example's encoding, in order.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    offsets = [0]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokens.i32").open("wb") as tokens, (folder / "types.u8").open("wb") as types:
        for encoding in _encodings(tables, tokenizer):
            np.asarray(encoding.ids, dtype=np.int32).tofile(tokens)
            np.asarray(encoding.type_ids, dtype=np.uint8).tofile(types)
            offsets.append(offsets[-1] + len(encoding.ids))
            if look is not None:
                look(encoding)
    return Encoded(
        tokens=map_array(folder / "tokens.i32", np.int32, (offsets[-1],)),
        types=map_array(folder / "types.u8", np.uint8, (offsets[-1],)),
        offsets=np.asarray(offsets, dtype=np.int64),
        targets=targets([text for table in tables for text in table.labels()]),
    )


def _encodings(tables: Sequence[Table], tokenizer: Tokenizer) -> Iterator[Encoding]:
    texts = chain.from_iterable(table.texts() for table in tables)
    while chunk := list(islice(texts, _ROWS_PER_CALL)):
        yield from tokenizer.encode_batch([text if pair is None else (text, pair) for text, pair in chunk])


def map_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array in a file, memory-mapped."""
    if not shape[0]:  # an empty file cannot be mapped
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)
