"""Token ids on disk: a split is tokenised once per stage into memory-mapped arrays.

The arrays are flat with offsets, since random access to a memory map reads only the pages of the requested rows, while
random access to a chunked Arrow list column copies chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
class Encoded:
    """The token ids of one split, or of several concatenated splits."""

    tokens: NDArray[np.int32]
    """Concatenated token ids of all examples, `[sum of lengths]`."""
    types: NDArray[np.uint8]
    """Segment of every token (0 first text, 1 second), `[sum of lengths]`."""
    offsets: NDArray[np.int64]
    """Example i is `tokens[offsets[i]:offsets[i + 1]]`, `[examples + 1]`."""
    targets: NDArray[Any]
    """`[examples]`, from `Task.targets`."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every example in tokens, `[examples]`."""
        return np.diff(self.offsets)

    def labelled(self, count: int) -> NDArray[np.int64]:
        """Return the indices of `count` labelled examples, evenly spaced, so that sorted files give all labels."""
        indices = np.flatnonzero(labelled(self.targets))
        return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(np.int64)]


def encode(
    tables: Sequence[Table],
    tokenizer: Tokenizer,
    max_length: int,
    targets: Callable[[Sequence[str | None]], NDArray[Any]],
    folder: Path,
) -> Encoded:
    """Tokenise and concatenate tables into files below `folder`, which must outlive the result.

    Args:
        tables: the tables.
        tokenizer: the tokenizer.
        max_length: longest example in tokens; longer ones are truncated.
        targets: maps the labels' texts to targets.
        folder: folder of the memory-mapped files.
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
    return Encoded(
        tokens=_mapped(folder / "tokens.i32", np.int32, offsets[-1]),
        types=_mapped(folder / "types.u8", np.uint8, offsets[-1]),
        offsets=np.asarray(offsets, dtype=np.int64),
        targets=targets([text for table in tables for text in table.labels()]),
    )


def _encodings(tables: Sequence[Table], tokenizer: Tokenizer) -> Iterator[Encoding]:
    texts = chain.from_iterable(table.texts() for table in tables)
    while chunk := list(islice(texts, _ROWS_PER_CALL)):
        yield from tokenizer.encode_batch([text if pair is None else (text, pair) for text, pair in chunk])


def _mapped(path: Path, dtype: type, size: int) -> np.ndarray:
    if not size:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=(size,))
