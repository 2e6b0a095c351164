"""Conversations as texts, by the model's own template, and the parts of them that the model is to say.

The template is Jinja as in `tokenizer_config.json`, run by transformers in a sandbox. What the assistant says is found
by comparing the text with and without a message, since most templates do not mark it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from lissom.errors import DataError

ASSISTANT = "assistant"


def render(text: str, template: str | None, tokens: Mapping[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a conversation as a text, and the first and last character of every part that the assistant says.

    Args:
        text: the messages in JSON.
        template: the chat template of the model; None if it has none.
        tokens: the special tokens of the template, by name.

    Raises:
        DataError: there is no template, it fails, or its text of the first messages does not begin that of all.
    """
    if template is None:
        raise DataError(
            "data: there are conversations, and the base model's tokenizer has no chat_template; take a model for "
            "chat, or texts in place of messages"
        )
    messages: list[dict[str, Any]] = json.loads(text)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != ASSISTANT:
            continue
        before = as_text(messages[:number], template, tokens, reply=True)
        after = as_text(messages[: number + 1], template, tokens, reply=False)
        if not after.startswith(before):
            raise DataError(
                f"data: the base model's chat_template writes a conversation anew with every message, so that what the "
                f"assistant says cannot be found; the text begins {after[:60]!r}"
            )
        spans.append((len(before), len(after)))
    return as_text(messages, template, tokens, reply=False), spans


def as_text(messages: Sequence[Mapping[str, Any]], template: str, tokens: Mapping[str, str], *, reply: bool) -> str:
    """Return some messages as a text, with the beginning of a reply if `reply`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(
            conversations=[list(messages)], chat_template=template, add_generation_prompt=reply, **tokens
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"data: the base model's chat_template fails on a conversation: {error}") from None
    return str(texts[0])
