"""Parallel texts: two files with a line for every text, `train.en` and `train.de`, plain or compressed."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lissom.data.cleaning import Cleaner
from lissom.data.decoding import COMPRESSIONS, opened
from lissom.data.tables import Row
from lissom.errors import DataError


def find_pair(folder: Path, names: tuple[str, ...], columns: list[str]) -> tuple[Path, ...] | None:
    """Return the files of a split, one for every column; None if there are none.

    Args:
        folder: the folder.
        names: what the split may be called.
        columns: the ends of the files' names, such as `en` and `de`.

    Raises:
        DataError: a file of the split is missing, or there are several.
    """
    endings = ("", *(f".{compression}" for compression in COMPRESSIONS))
    files = [
        [path for name in names for ending in endings if (path := folder / f"{name}.{column}{ending}").is_file()]
        for column in columns
    ]
    if not any(files):
        return None
    for column, paths in zip(columns, files, strict=True):
        if len(paths) != 1:
            given = ", ".join(path.name for path in paths) or "nothing"
            raise DataError(
                f"{folder}: one file {names[0]}.{column} is needed beside the other language's, found {given}"
            )
    return tuple(paths[0] for paths in files)


def read_pair(paths: tuple[Path, ...], columns: list[str], cleaner: Cleaner) -> Iterator[Row]:
    """Yield the rows of the files of a split, without those that `cleaner` leaves out.

    Raises:
        DataError: the files have different numbers of lines, or a file is damaged or not UTF-8.
    """
    with opened(paths[0]) as first, opened(paths[1]) as second:
        for number, lines in enumerate(zip_longest(first, second), 1):
            if None in lines:
                short = paths[lines.index(None)]
                raise DataError(
                    f"{short}: ends after line {number - 1}, the other file goes on; every line needs its translation"
                )
            record: dict[str, Any] = {column: line.rstrip("\r\n") for column, line in zip(columns, lines, strict=True)}
            row = cleaner.row(record, f"{paths[0]}, line {number}")
            if row is not None:
                yield row
