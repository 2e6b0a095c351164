"""Texts and labels in Arrow files, written in batches and read memory-mapped, so that they may exceed the memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

CONVERSATION = "conversation"
"""Label of a row whose text is a list of messages in JSON."""
ASSISTANT = "assistant"
"""Role of the messages that a model is to write."""
_ROWS_PER_BATCH = 4096


class Row(NamedTuple):
    """One example of a source."""

    text: str
    text_pair: str | None
    label: str | None


class Table:
    """A memory-mapped table of rows; labels are stored as texts."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self._table = pa.ipc.open_file(file).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def rows(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Row]:
        """Yield all rows, or those at `indices` in that order."""
        order = range(len(self)) if indices is None else indices
        columns = [self._table.column(name) for name in Row._fields]
        for index in order:
            yield Row(*(column[int(index)].as_py() for column in columns))

    def texts(self) -> Iterator[tuple[str, str | None]]:
        """Yield text and second text of every row."""
        for batch in self._table.to_batches():
            yield from zip(batch.column("text").to_pylist(), batch.column("text_pair").to_pylist(), strict=True)

    def labels(self) -> list[str | None]:
        """Return the label's text for every row; None where there is none."""
        return self._table.column("label").to_pylist()  # type: ignore[no-any-return]


def write_table(path: Path, rows: Iterable[Row]) -> Table:
    """Write rows to an Arrow file and return it memory-mapped."""
    schema = pa.schema([(name, pa.string()) for name in Row._fields])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        source = iter(rows)
        while chunk := list(islice(source, _ROWS_PER_BATCH)):
            writer.write_batch(pa.record_batch([list(column) for column in zip(*chunk, strict=True)], schema=schema))
    return Table(path)
