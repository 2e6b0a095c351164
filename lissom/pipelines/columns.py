"""Which columns of a table are the text, the second text and the label, and what kind of label it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lissom.data.config import UNLABELLED_TASKS, WRITTEN, TaskKind
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
_CHAT = "messages"
_ADVICE = "name them with --set data.text=COLUMN --set data.label=COLUMN"


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns."""

    text: str
    text_pair: str | None
    label: str | None
    """None of texts alone."""
    task: TaskKind


def assume_columns(
    rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any], writes: TaskKind | None = None
) -> Columns:
    """Return the roles of the columns by their names, and by their contents where the names say nothing.

    Args:
        rows: a sample of the table.
        given: what the user has set of `text`, `text_pair`, `label` and `task`.
        writes: the task of a model that writes texts.

    Raises:
        InputError: the column of a role is ambiguous or missing; the message lists the columns.
    """
    task = given.get("task") or (writes if writes in WRITTEN else None)
    if task in WRITTEN:
        return _translations(rows, given)
    names = _names(rows, given)
    if task in UNLABELLED_TASKS or (writes in UNLABELLED_TASKS and not given.get("label") and _CHAT in names):
        return _texts_alone(rows, given)
    taken = {value for value in given.values() if value}
    texts = [name for name in names if name not in taken and _is_text(rows, name)]
    label = (
        given.get("label")
        or _named(names, _LABEL, taken)
        or _only([name for name in names if name not in taken and _repeats(rows, name)])
    )
    if label is None and writes in UNLABELLED_TASKS and not given.get("task"):
        return _texts_alone(rows, given)
    if label is None:
        raise InputError(f"no column looks like a label; the columns are {', '.join(names)}: {_ADVICE}")
    texts = [name for name in texts if name != label]
    text = given.get("text") or _named(texts, _TEXT, {label})
    pair = given["text_pair"] if "text_pair" in given else _named(texts, _PAIR, {label, text or ""})
    if text is None and pair is None and 1 <= len(texts) <= 2:
        text, pair = texts[0], (texts[1] if len(texts) == 2 else None)
    if text is None:
        raise InputError(f"no column, or several, look like the text; the columns are {', '.join(names)}: {_ADVICE}")
    return Columns(text, pair, label, given.get("task") or _task([row.get(label) for row in rows]))


def _texts_alone(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Columns:
    names = _names(rows, given)
    texts = [name for name in names if _is_text(rows, name)]
    text = given.get("text") or _named(names, (_CHAT, *_TEXT), set()) or _only(texts)
    if text is None:
        raise InputError(f"no column, or several, look like the text; the columns are {', '.join(names)}: {_ADVICE}")
    return Columns(text, None, None, "language_modeling")


def _translations(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Columns:
    """Return the only two columns of texts, in their order, as texts and translations."""
    names = _names(rows, given)
    texts = [name for name in names if _is_text(rows, name) or name in (given.get("text"), given.get("label"))]
    text = given.get("text") or next((name for name in texts if name != given.get("label")), None)
    others = [name for name in texts if name != text]
    label = given.get("label") or _only(others)
    if text is None or label is None:
        raise InputError(
            f"no two columns, or more, look like a text and its translation; the columns are {', '.join(names)}: "
            f"{_ADVICE}"
        )
    return Columns(text, None, label, "translation")


def _names(rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> list[str]:
    """Return the columns of all rows, since one of JSON may lack some; raises `InputError` for given ones that lack."""
    if not rows:
        raise InputError("train has no row; it needs some, with a text each")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for role in ("text", "text_pair", "label"):
        name = given.get(role)
        if name is not None and name not in names:
            raise InputError(f"data.{role}: there is no column {name!r}; the columns are {', '.join(names)}")
    return names


def _named(names: Sequence[str], known: Sequence[str], taken: set[str]) -> str | None:
    lower = {name.strip().lower(): name for name in names if name not in taken}
    return next((lower[name] for name in known if name in lower), None)


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _is_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether most values are texts of at least two words."""
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    parts = (value.split() if isinstance(value, str) else value for value in values)
    return sum(isinstance(words, list) and len(words) > 1 for words in parts) > len(values) / 2


def _repeats(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether the column has few distinct values, as names of classes have; a missing one is none of them."""
    values = [str(row[name]) for row in rows if row.get(name) not in (None, "")]
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
