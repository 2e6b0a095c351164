"""Rows that nothing can be learned from: texts without a character, and missing labels, are left out and counted."""

import json
import math
import unicodedata
from collections import Counter
from typing import Any

import numpy as np

from lissom.data.config import DataParams
from lissom.data.labels import label_text
from lissom.data.tables import ASSISTANT, CONVERSATION, Row
from lissom.errors import DataError
from lissom.serving.token_classification import OUTSIDE

NO_BREAK_SPACE = "\u00a0"


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
        self._roles: set[str] = set()

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
        if params.is_per_token:
            return self._tagged(record, place)
        if not params.has_labels and isinstance(record[params.text], list):
            return self._conversation(record[params.text], place)
        texts = [self._text(name, record[name], place) for name in (params.text, params.text_pair) if name]
        if not all(texts):
            self._counts["an empty text"] += 1
            return None
        label = record[params.label] if self._labelled else None
        if label is not None and params.is_written:
            label = self._text(params.label, label, place) or None
        if self._labelled and _is_missing(label):
            self._counts["no label"] += 1
            return None
        written = label is None or params.is_written
        name = label if written else self._encodable(label_text(label, params, place))
        return Row(texts[0], texts[1] if params.text_pair else None, name)

    def notes(self, split: str) -> list[str]:
        """Return what was left out or changed of the rows so far, one line each."""
        lines = {
            "an empty text": "rows with an empty text are left out",
            "no label": "rows without a label are left out",
            "a blank word": "words without a visible character are left out, with their tags",
            "tools": "conversations with tools, or with parts that are no text, are left out",
            "no answer": (
                f"conversations in which no message of role `{ASSISTANT}` answers are left out; roles: "
                f"{', '.join(sorted(self._roles))}"
            ),
            "replaced": "texts have half of a surrogate pair, which no encoding can hold; it is replaced by U+FFFD",
        }
        return [f"{split}: {self._counts[key]} {line}" for key, line in lines.items() if self._counts[key]]

    def _conversation(self, messages: list[Any], place: str) -> Row | None:
        """Return a row of messages; None if the assistant says nothing in it, or not in words alone."""
        kept, has_words = [], True
        for message in messages:
            role = message.get("role") if isinstance(message, dict) else None
            if not isinstance(role, str) or not isinstance(message.get("content", 0), str | list | None):
                raise DataError(f"{place}: {str(message)[:60]} is no message; it needs the texts `role` and `content`")
            text = _words_of(message["content"])
            calls = any(message.get(name) for name in ("tool_calls", "function_call")) or role in ("tool", "function")
            has_words = has_words and text is not None and not calls
            kept.append({"role": role, "content": self._encodable(text or "")})
        if not has_words:
            self._counts["tools"] += 1
        elif not any(message["content"].strip() for message in kept):
            self._counts["an empty text"] += 1
        elif not any(message["role"] == ASSISTANT and message["content"].strip() for message in kept[1:]):
            self._roles.update(message["role"] for message in kept)
            self._counts["no answer"] += 1
        else:
            return Row(json.dumps(kept, ensure_ascii=False), None, CONVERSATION)
        return None

    def _tagged(self, record: dict[str, Any], place: str) -> Row | None:
        """Return a row of words and tags, each separated by single spaces; None if there is no word."""
        params = self._params
        value = record[params.text]
        if self._labelled and record[params.label] is None:
            self._counts["no label"] += 1
            return None
        if not self._labelled and isinstance(value, str):
            text = self._text(params.text, value, place)
            return Row(text, None, None) if text else None
        words = _items(value, params.text, place)
        tags = _items(record[params.label], params.label, place) if self._labelled else [OUTSIDE] * len(words)
        if len(words) != len(tags):
            raise DataError(
                f"{place}: {len(words)} words in column {params.text!r}, {len(tags)} tags in {params.label!r}; every "
                "word needs a tag"
            )
        pairs = [(_visible(word), tag) for word, tag in zip(words, tags, strict=True)]
        kept = [(self._encodable(word), tag) for word, tag in pairs if word]
        self._counts["a blank word"] += len(pairs) - len(kept)
        if not kept:
            self._counts["an empty text"] += 1
            return None
        for _, tag in kept:
            if not tag or any(character.isspace() for character in tag):
                raise DataError(f"{place}: the tag {tag!r} is empty or holds a space; name it in one word")
        label = " ".join(tag for _, tag in kept) if self._labelled else None
        return Row(" ".join(word for word, _ in kept), None, label)

    def _text(self, name: str, value: Any, place: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            value = ""
        if not isinstance(value, str):
            raise DataError(f"{place}: column {name!r} is {value!r}, a {type(value).__name__}; a text is needed")
        if any(map(_is_visible, value)):
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


def _words_of(content: Any) -> str | None:
    """Return the text of a message, which may be given in parts; None if a part is no text, such as an image."""
    if not isinstance(content, list):
        return content or ""
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def _items(value: Any, name: str, place: str) -> list[str]:
    """Return the words or tags of a text, given as a list or as a text with spaces between them."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple | np.ndarray) and all(isinstance(item, str | int | np.integer) for item in value):
        return [str(item) for item in value]
    raise DataError(
        f"{place}: column {name!r} is {str(value)[:40]!r}; for data.task: token_classification a list of words or tags "
        "is needed, or a text with spaces between them"
    )


def _visible(word: str) -> str:
    """Return a word without spaces, since words are separated by them; empty if it has no visible character."""
    inner = NO_BREAK_SPACE.join(word.split())
    return inner if any(map(_is_visible, inner)) else ""


def _is_visible(character: str) -> bool:
    """Return whether a character is neither a space nor a control or format character, such as a byte order mark."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Zs", "Zl", "Zp")
