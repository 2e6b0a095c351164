"""Rows that nothing can be learned from: texts without a character, and missing labels, are left out and counted."""

import math
from collections import Counter
from typing import Any

from lissom.data.config import DataParams
from lissom.data.labels import label_text
from lissom.data.tables import Row
from lissom.errors import DataError


class Cleaner:
    """Makes rows of one split from the values of a source.

    Args:
        params: names of the columns, and whether empty texts are dropped or refused.
        labelled: whether rows need a label.
    """

    def __init__(self, params: DataParams, *, labelled: bool = True) -> None:
        self._params = params
        self._labelled = labelled
        self._counts: Counter[str] = Counter()

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns that a source must have."""
        params = self._params
        pair = [params.text_pair] if params.text_pair else []
        return [params.text, *pair, *([params.label] if self._labelled else [])]

    def row(self, record: dict[str, Any], place: str) -> Row | None:
        """Return a row, or None if it is left out.

        Args:
            record: the values by column.
            place: where the row is, for messages.

        Raises:
            DataError: a text is no text, or empty with `data.empty_texts: refuse`, or the label is not usable.
        """
        params = self._params
        texts = [self._text(name, record[name], place) for name in (params.text, params.text_pair) if name]
        if not all(texts):
            self._counts["an empty text"] += 1
            return None
        label = record[params.label] if self._labelled else None
        if self._labelled and _is_missing(label):
            self._counts["no label"] += 1
            return None
        name = None if label is None else self._encodable(label_text(label, params, place))
        return Row(texts[0], texts[1] if params.text_pair else None, name)

    def notes(self, split: str) -> list[str]:
        """Return what was left out or changed of the rows so far, one line each."""
        lines = {
            "an empty text": "rows with an empty text are left out",
            "no label": "rows without a label are left out",
            "replaced": "texts have half of a surrogate pair, which no encoding can hold; it is replaced by U+FFFD",
        }
        return [f"{split}: {self._counts[key]} {line}" for key, line in lines.items() if self._counts[key]]

    def _text(self, name: str, value: Any, place: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            value = ""
        if not isinstance(value, str):
            raise DataError(f"{place}: column {name!r} is {value!r}, a {type(value).__name__}; a text is needed")
        if value.strip():
            return self._encodable(value)
        if self._params.empty_texts == "refuse":
            raise DataError(
                f"{place}: column {name!r} is {value!r}; a text that is not empty is needed "
                "(data.empty_texts: drop leaves such rows out)"
            )
        return ""

    def _encodable(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._counts["replaced"] += 1
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text


def _is_missing(label: Any) -> bool:
    blank = isinstance(label, str) and not label.strip()
    return label is None or blank or (isinstance(label, float) and math.isnan(label))
