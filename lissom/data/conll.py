"""Texts of tagged words in CoNLL's form: a word and its tags on a line, an empty line after every text.

The word is the first column and the tag the last one, as in CoNLL-2003 and WNUT-17. Columns are separated by tabs where
a line has one, else by spaces.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lissom.data.decoding import opened
from lissom.errors import DataError

_DOCUMENT = "-DOCSTART-"
_UNIVERSAL = 10
"""Columns of CoNLL-U."""


def read_conll(path: Path, words: str = "text", tags: str = "label") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and record of every text: lists of words and tags.

    Args:
        path: the file.
        words: name of the words in a record.
        tags: name of the tags.

    Raises:
        DataError: a line has no tag, or the file is CoNLL-U.
    """
    record: dict[str, list[str]] = {words: [], tags: []}
    first = 1
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip()
            if not text.strip() or text.startswith(_DOCUMENT):
                if record[words]:
                    yield f"line {first}", record
                record, first = {words: [], tags: []}, number + 1
                continue
            if text.startswith("# ") and " = " in text:  # a comment, as some tools write it
                continue
            columns = text.split("\t") if "\t" in text else text.split()
            if len(columns) < 2:
                raise DataError(f"{path}, line {number}: {text[:40]!r} has no tag; a word and its tag are needed")
            if len(columns) == _UNIVERSAL and columns[0].isdecimal():
                raise DataError(
                    f"{path}, line {number}: this is CoNLL-U, whose first column numbers the words; keep two columns, "
                    "the word and its tag"
                )
            record[words].append(columns[0])
            record[tags].append(columns[-1].strip())
    if record[words]:
        yield f"line {first}", record
