"""Conversations as texts, by the model's own template, and the parts of them that the model is to say.

The template is Jinja as in `tokenizer_config.json`, run by transformers in a sandbox. What the assistant says is where
the template marks it (`{% generation %}`); most do not, and then it is found by comparing the text with and without a
message.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from lissom.data.tables import ASSISTANT, CONVERSATION, Table
from lissom.errors import DataError

_MARK = "\ue000"
"""Stands for an answer, of which no template has a character."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render(text: str, template: str | None, tokens: Mapping[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a conversation as a text, and the first and last character of every part that the assistant says.

    What the assistant says before anybody else does is no answer, and no such part, unless the template marks it.

    Args:
        text: the messages in JSON.
        template: the chat template of the model; None if it has none.
        tokens: the special tokens of the template, by name.

    Raises:
        DataError: there is no template, it fails, or none of the assistant's answers is found in its text.
    """
    if template is None:
        raise DataError(
            "data: there are conversations, and the base model's tokenizer has no chat_template; take a model for "
            "chat, or texts in place of messages"
        )
    messages: list[dict[str, Any]] = json.loads(text)
    whole, marked = _rendered(messages, template, tokens, reply=False, marks=bool(_MARKED.search(template)))
    answers = [number for number, message in enumerate(messages) if number and message["role"] == ASSISTANT]
    if marked is None:
        spans = [_answer(messages, number, whole, template, tokens) for number in answers]
        found = [span for span in spans if span is not None]
    else:
        found = marked
    if answers and not found:
        raise DataError(
            f"data: what the assistant says cannot be found in the text that the base model's chat_template makes of a "
            f"conversation; it begins {whole[:60]!r}"
        )
    return whole, found


def check_conversations(tables: Mapping[str, Table], template: str | None, tokens: Mapping[str, str]) -> None:
    """Raise `DataError` if conversations of any split cannot be used with a template, as `render`.

    Args:
        tables: the splits by name.
        template: the chat template.
        tokens: its special tokens.
    """
    for split, table in tables.items():
        count, failed = 0, 0
        first: tuple[int, str] | None = None
        for (text, _), label in zip(table.texts(), table.labels(), strict=True):
            if label != CONVERSATION:
                continue
            count += 1
            try:
                render(text, template, tokens)
            except DataError as error:
                failed += 1
                first = first or (count, str(error))
        if first is not None:
            raise DataError(f"{split}: {failed} of {count} conversations cannot be used; number {first[0]}: {first[1]}")


def as_text(messages: Sequence[Mapping[str, Any]], template: str, tokens: Mapping[str, str], *, reply: bool) -> str:
    """Return some messages as a text, with the beginning of a reply if `reply`.

    Raises:
        DataError: the template fails.
    """
    return _rendered(messages, template, tokens, reply=reply, marks=False)[0]


def _answer(
    messages: Sequence[Mapping[str, Any]], number: int, whole: str, template: str, tokens: Mapping[str, str]
) -> tuple[int, int] | None:
    """Return where an answer with the end of its turn is in the text of all messages; None if it is not there.

    Templates may leave out what an assistant thought before later turns, or begin a reply with a thought that they
    write nowhere else.
    """
    question = as_text(messages[:number], template, tokens, reply=False)
    before = as_text(messages[:number], template, tokens, reply=True)
    after = as_text(messages[: number + 1], template, tokens, reply=False)
    marked = as_text(
        [*messages[:number], {**messages[number], "content": _MARK}], template, tokens, reply=False
    ).rpartition(_MARK)
    pairs = zip(before, after, strict=False)
    start = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
    if marked[1] and not after.startswith(before):
        start = min(start, len(marked[0]))  # the answer may begin as the thought does that stands in its place
    if whole.startswith(after) and start >= len(question):
        return start, len(after)
    answer = str(messages[number]["content"]).rpartition("</think>")[2].strip()
    if not answer or not marked[1] or not whole.startswith(question):
        return None
    turn = answer + marked[2]
    start = whole.find(turn, len(question))
    return None if start < 0 else (start, start + len(turn))


def _rendered(
    messages: Sequence[Mapping[str, Any]], template: str, tokens: Mapping[str, str], *, reply: bool, marks: bool
) -> tuple[str, list[tuple[int, int]] | None]:
    """Return messages as a text, and with `marks` the parts that the template marks as the assistant's."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, parts = render_jinja_template(
            conversations=[list(messages)], chat_template=template, add_generation_prompt=reply,
            return_assistant_tokens_mask=marks, **tokens,
        )  # fmt: skip
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"data: the base model's chat_template fails on a conversation: {error}") from None
    return str(texts[0]), [(int(start), int(end)) for start, end in parts[0]] if marks else None
