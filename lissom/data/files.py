"""Data from files: tsv, csv, jsonl or parquet, plain or compressed, one row at a time."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from lissom.data.config import DataParams
from lissom.data.labels import label_text
from lissom.data.tables import Row
from lissom.errors import DataError

FORMATS = ("tsv", "csv", "jsonl", "parquet")
_COMPRESSIONS = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


def find_split(folder: Path, split: str) -> Path | None:
    """Return the file of `folder` that holds a split; None if there is none.

    Raises:
        DataError: the folder is missing, or several files claim the split.
    """
    if not folder.is_dir():
        raise DataError(f"data.source: no folder {folder}; it must hold train and test as {', '.join(FORMATS)}")
    paths = sorted(path for path in folder.glob(f"{split}.*") if _format(path) in FORMATS)
    if len(paths) > 1:
        raise DataError(f"{folder}: {', '.join(path.name for path in paths)} all claim to be {split}; keep one")
    return paths[0] if paths else None


def read_rows(path: Path, columns: DataParams, *, labelled: bool) -> Iterator[Row]:
    """Yield the rows of one file.

    Raises:
        DataError: a column is missing, a row has too many or too few fields, a text is empty or no text, or
            the file is not UTF-8; the message names the file and the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    names = [columns.text, *([columns.text_pair] if columns.text_pair else []), *([columns.label] if labelled else [])]
    for place, record in _records(path, names):
        text, pair = record[columns.text], record[columns.text_pair] if columns.text_pair else None
        for name, value in ((columns.text, text), (columns.text_pair, pair)):
            if name and (not isinstance(value, str) or not value.strip()):
                raise DataError(f"{path}, {place}: column {name!r} is {value!r}; a text that is not empty is needed")
        label = record[columns.label] if labelled else None
        if labelled and (label is None or label == ""):
            raise DataError(f"{path}, {place}: column {columns.label!r} is empty; every row needs a label")
        yield Row(text, pair, None if label is None else label_text(label, columns, f"{path}, {place}"))


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file with all their columns; raises `DataError` as `read_rows` does."""
    return (record for _, record in _records(path, []))


def _format(path: Path) -> str:
    suffixes = [suffix.lstrip(".") for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
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
        case unknown:
            raise DataError(f"{path}: format {unknown!r} is not known; allowed: {', '.join(FORMATS)}")


def _open(path: Path) -> IO[str]:
    opener = _COMPRESSIONS.get(path.suffix.lstrip("."), open)
    return opener(path, "rt", encoding="utf-8", newline="")  # type: ignore[operator, no-any-return]


def _delimited(path: Path, names: list[str], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # A tsv has no quoting: a quotation mark is an ordinary character.
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"strict": True}
    try:
        with _open(path) as file:
            reader = csv.reader(file, **dialect)
            header = next(reader, [])
            _check_columns(path, header, names)
            for fields in reader:
                if len(fields) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(fields)} columns, the header has {len(header)} "
                        f"({', '.join(header)}); remove or quote the delimiter inside a text"
                    )
                yield f"line {reader.line_num}", dict(zip(header, fields, strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from None
    except (csv.Error, OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _json_lines(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise DataError(f"{path}, line {number}: an object is expected, found {line.strip()[:40]!r}")
                _check_columns(path, list(record), names, f", line {number}")
                yield f"line {number}", record
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it to UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON: {error}") from None


def _parquet(path: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a parquet file: {error}") from None
    _check_columns(path, file.schema_arrow.names, names)
    number = 0
    for batch in file.iter_batches(columns=names or None):
        for record in batch.to_pylist():
            number += 1
            yield f"row {number}", record


def _check_columns(path: Path, columns: list[str], names: list[str], place: str = "") -> None:
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(
            f"{path}{place}: no column {', '.join(map(repr, missing))}; found {', '.join(columns) or 'nothing'}. "
            "Set data.text, data.text_pair and data.label to the names that the file has"
        )
