"""Which columns of a table are the text, the second text and the label, and what kind of label it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lissom.data.config import TaskKind
from lissom.errors import InputError

_TEXT = (
    "text", "sentence", "sentence1", "text1", "question1", "premise", "question", "query", "review", "content", "body",
    "message", "comment", "tweet", "utterance", "document", "title", "tokens", "words", "messages",
)  # fmt: skip
_PAIR = ("text_pair", "sentence2", "text2", "question2", "hypothesis", "pair", "answer", "passage", "context")
_LABEL = ("label", "labels", "class", "category", "target", "intent", "tag", "score", "rating", "stars", "sentiment",
          "similarity", "gold_label", "label_text", "coarse_label", "ner_tags", "tags", "ner")  # fmt: skip
_MOST_CLASSES = 20
"""More distinct whole numbers than this are taken for quantities, not for names of classes."""
_ADVICE = "name them with --set data.text=COLUMN --set data.label=COLUMN"


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns."""

    text: str
    text_pair: str | None
    label: str
    task: TaskKind


def assume_columns(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Columns:
    """Return the roles of the columns by their names, and by their contents where the names say nothing.

    Args:
        rows: a sample of the table.
        given: what the user has set of `text`, `text_pair`, `label` and `task`.

    Raises:
        InputError: the column of a role is ambiguous or missing; the message lists the columns.
    """
    names = list(rows[0])
    taken = {value for value in given.values() if value}
    texts = [name for name in names if name not in taken and _is_text(rows, name)]
    label = (
        given.get("label")
        or _named(names, _LABEL, taken)
        or _only([name for name in names if name not in taken and _repeats(rows, name)])
    )
    if label is None:
        raise InputError(f"no column looks like a label; the columns are {', '.join(names)}: {_ADVICE}")
    texts = [name for name in texts if name != label]
    text = given.get("text") or _named(texts, _TEXT, {label})
    pair = given["text_pair"] if "text_pair" in given else _named(texts, _PAIR, {label, text or ""})
    if text is None and pair is None and 1 <= len(texts) <= 2:
        text, pair = texts[0], (texts[1] if len(texts) == 2 else None)
    if text is None:
        raise InputError(f"no column, or several, look like the text; the columns are {', '.join(names)}: {_ADVICE}")
    return Columns(text, pair, label, given.get("task") or _task([row[label] for row in rows]))


def _named(names: Sequence[str], known: Sequence[str], taken: set[str]) -> str | None:
    lower = {name.strip().lower(): name for name in names if name not in taken}
    return next((lower[name] for name in known if name in lower), None)


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _is_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether most values are texts of at least two words."""
    values = [row[name] for row in rows if row[name] not in (None, "")]
    parts = (value.split() if isinstance(value, str) else value for value in values)
    return sum(isinstance(words, list) and len(words) > 1 for words in parts) > len(values) / 2


def _repeats(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether the column has few distinct values, as names of classes have; a missing one is none of them."""
    values = [str(row[name]) for row in rows if row[name] not in (None, "")]
    return 2 <= len(set(values)) <= max(2, len(values) // 5)


def _task(values: Sequence[Any]) -> TaskKind:
    if any(isinstance(value, list) for value in values):
        return "token_classification"
    numbers = []
    for value in values:
        if value in (None, ""):
            continue
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            return "classification"
    if all(number.is_integer() for number in numbers) and len(set(numbers)) <= _MOST_CLASSES:
        return "classification"
    return "regression"
