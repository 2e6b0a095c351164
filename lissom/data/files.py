"""Data from files: tsv, csv, jsonl, parquet, conll (tagged words) or txt, plain or compressed."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lissom.data.cleaning import Cleaner
from lissom.data.conll import read_conll
from lissom.data.decoding import COMPRESSIONS, opened
from lissom.data.tables import Row
from lissom.errors import DataError

FORMATS = ("tsv", "csv", "jsonl", "parquet", "conll", "txt")
_NAMES = {"dev": ("dev", "validation", "valid", "val")}
_LONGEST_FIELD = 2**31 - 1


def find_split(folder: Path, split: str) -> Path | None:
    """Return the file of `folder` that holds a split; None if there is none.

    `dev` may also be called `validation`, `valid` or `val`.

    Raises:
        DataError: the folder is missing, or several files claim the split.
    """
    paths = [path for path in _tables(folder) if _stem(path) in names_of(split)]
    if len(paths) > 1:
        raise DataError(f"{folder}: {', '.join(path.name for path in paths)} all claim to be {split}; keep one")
    return paths[0] if paths else None


def names_of(split: str) -> tuple[str, ...]:
    """Return what the files of a split may be called."""
    return _NAMES.get(split, (split,))


def unread(folder: Path, read: Sequence[Path]) -> list[str]:
    """Return the names of the tables in `folder` that are not among those that are read, and of formats not known."""
    taken = {path.resolve() for path in read}
    splits = {name for split in ("train", "dev", "test") for name in names_of(split)} - {_stem(path) for path in read}
    others = [path for path in folder.iterdir() if path.is_file() and _stem(path) in splits]
    return sorted({path.name for path in (*_tables(folder), *others) if path.resolve() not in taken})


def read_rows(path: Path, cleaner: Cleaner, *, by_line: bool = False) -> Iterator[Row]:
    """Yield the rows of one file, without those that `cleaner` leaves out.

    Args:
        path: the file.
        cleaner: makes the rows.
        by_line: whether every line of a txt file is a text; else the file is one.

    Raises:
        DataError: a column is missing or there twice, a row has too many or too few fields, a value is not usable, or
            the file is damaged or not UTF-8; the message names the file and the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    is_lines = by_line and _format(path) == "txt"
    for place, record in _lines(path, cleaner.columns) if is_lines else _records(path, cleaner.columns):
        row = cleaner.row(record, f"{path}, {place}")
        if row is not None:
            yield row


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file with all their columns; raises `DataError` as `read_rows` does."""
    return (record for _, record in _records(path, []))


def _tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"data.source: no folder {folder}; it must hold train and test as {', '.join(FORMATS)}")
    return sorted(path for path in folder.iterdir() if path.is_file() and _format(path) in FORMATS)


def _stem(path: Path) -> str:
    return path.name.partition(".")[0].lower()


def _format(path: Path) -> str:
    suffixes = [suffix.lstrip(".").lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _records(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    match _format(path):
        case "tsv" | "csv" as kind:
            return _delimited(path, names, kind)
        case "jsonl":
            return _json_lines(path, names)
        case "parquet":
            return _parquet(path, names)
        case "conll":
            return read_conll(path, *names)
        case "txt":
            return _whole(path, names)
        case unknown:
            raise DataError(f"{path}: format {unknown!r} is not known; allowed: {', '.join(FORMATS)}")


def _whole(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file as one text; raises `DataError` if more than a text is wanted."""
    if len(names) > 1:
        raise DataError(
            f"{path}: plain text has no column {names[-1]!r}; it is one text, for data.task: language_modeling"
        )
    with opened(path) as file:
        yield "line 1", {names[0] if names else "text": file.read()}


def _lines(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every line of a file as a text; raises `DataError` if more than a text is wanted."""
    if len(names) > 1:
        raise DataError(f"{path}: plain text has no column {names[-1]!r}; write the texts as {', '.join(FORMATS[:4])}")
    with opened(path) as file:
        yield from ((f"line {number}", {names[0]: line.rstrip("\n")}) for number, line in enumerate(file, start=1))


def _delimited(path: Path, names: list[str], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # A tsv has no quoting: a quotation mark is an ordinary character.
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"strict": True}
    csv.field_size_limit(_LONGEST_FIELD)  # the default, 131,072 characters, ends the reading of long documents
    with opened(path, newline="") as file:
        reader = csv.reader(file, **dialect)
        try:
            header = next((fields for fields in reader if not _is_blank(fields)), [])
            _check_columns(path, header, names)
            for fields in reader:
                if len(fields) != len(header):
                    if _is_blank(fields):
                        continue
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(fields)} columns, the header has {len(header)} "
                        f"({', '.join(header)}); remove or quote the delimiter inside a text"
                    )
                yield f"line {reader.line_num}", dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: cannot be read: {error}") from None


def _is_blank(fields: list[str]) -> bool:
    return not any(field.strip() for field in fields)


def _json_lines(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}, line {number}: an object is expected, found {line.strip()[:40]!r}")
            _check_columns(path, list(record), names, f", line {number}")
            yield f"line {number}", record


def _parquet(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names, names)
        number = 0
        for batch in file.iter_batches(columns=names or None):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number}", record
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a parquet file: {error}") from None


def _check_columns(path: Path, columns: list[str], names: list[str], place: str = "") -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(
            f"{path}{place}: no column {', '.join(map(repr, missing))}; found {', '.join(columns) or 'nothing'}. "
            "Set data.text, data.text_pair and data.label to the names that the file has"
        )
    twice = [name for name in names if columns.count(name) > 1]
    if twice:
        raise DataError(f"{path}{place}: column {twice[0]!r} is there {columns.count(twice[0])} times; rename one")
