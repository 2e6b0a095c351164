"""Checks that llama.cpp reads texts as the tokenizer does, and conversations as the chat template says."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer
from transformers import PreTrainedConfig

from lissom.data.tables import ASSISTANT
from lissom.errors import InputError
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.generation import listed
from lissom.serving.llama_server import LlamaServer
from lissom.tasks.chat import as_text
from lissom.tasks.language_modeling import LanguageModeling

_CONTEXT = 64  # of an engine that only tokenises
_TEMPLATE_CONTEXT = 512  # of a server that only writes conversations as texts
_OWN_CONVERSATIONS = 50
CONVERSATIONS = (
    [{"role": "user", "content": "Hello!"}],
    [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And  3 + 3?\nIn words."},
    ],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Caf\u00e9?"}],
)


def check_tokens(path: Path, tokenizer: Tokenizer, texts: Sequence[str], ends: Sequence[int] = ()) -> None:
    """Compare the tokens of texts, and of every special token between two letters.

    Args:
        path: path of the file.
        tokenizer: the model's tokenizer.
        texts: the texts.
        ends: tokens that the tokenizer adds at the end of a text and the file does not.

    Raises:
        InputError: a text has other tokens in llama.cpp.
    """
    opened = LlamaCpp(path, _CONTEXT, threads=1)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A token that takes the space beside it with it is no part of a conversation.
    special = [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if not token.lstrip and not token.rstrip
    ]
    all_texts = [*texts, *(f"a{token}b" for token in special)]
    adds_end = tokenizer.encode("a").ids[-1] in ends
    for text, encoding in zip(all_texts, tokenizer.encode_batch(all_texts), strict=True):
        tokens = opened.tokenize(text)
        expected = encoding.ids[:-1] if adds_end else encoding.ids
        if tokens != expected:
            pairs = zip([*tokens, None], [*expected, None], strict=False)
            place = next(number for number, (theirs, ours) in enumerate(pairs) if theirs != ours)
            raise InputError(
                f"export.gguf: llama.cpp's tokens of a text differ from the tokenizer's at token {place}: "
                f"{tokens[place : place + 4]} for {expected[place : place + 4]}, in {text[:80]!r}"
            )


def check_marks(path: Path, config: PreTrainedConfig, tokens: Sequence[str]) -> None:
    """Compare the tokens that begin and end a text for llama.cpp with those of the model's config.

    Args:
        path: path of the file.
        config: the config.
        tokens: text of every token.

    Raises:
        InputError: they are others, so that answers would not end, or end too early.
    """
    opened = LlamaCpp(path, _CONTEXT, threads=1)
    ends = listed(config.eos_token_id)
    missing = [tokens[token] for token in ends if token not in opened.ends]
    if missing:
        raise InputError(
            f"export.gguf: for llama.cpp an answer does not end at {', '.join(map(repr, missing))}, as it does for "
            f"the model, whose config names {len(ends)} such tokens (eos_token_id); a file names three, and llama.cpp "
            "knows common ones by their text"
        )
    entry = gguf.GGUFReader(path).fields.get("tokenizer.ggml.eos_token_id")
    named = None if entry is None else int(entry.contents())
    if ends and named not in ends:
        shown = "no token" if named is None else repr(tokens[named])
        raise InputError(
            f"export.gguf: in the file {shown} ends a text, for the model "
            f"{', '.join(repr(tokens[token]) for token in ends)}"
        )
    if config.bos_token_id is not None and opened.start != config.bos_token_id:
        raise InputError(
            f"export.gguf: for llama.cpp token {opened.start} begins a text, for the model {config.bos_token_id}"
        )


def check_templates(path: Path, task: LanguageModeling, own: Iterable[str] = ()) -> int:
    """Compare some conversations as texts by Jinja and by llama.cpp's server; return their number.

    Conversations that the template refuses, such as those with a system prompt, are left out.

    Args:
        path: path of the file.
        task: the task, with the chat template.
        own: conversations of the user's, as messages in JSON, of which the first ones are compared too.

    Raises:
        InputError: llama.cpp cannot read the template, or a conversation becomes another text in it.
    """
    if task.chat_template is None:
        return 0
    try:
        server = LlamaServer(path, _TEMPLATE_CONTEXT, threads=1)
    except ValueError as error:
        raise InputError(
            f"export.gguf: {error}; its tensors were read before, so that it is probably the chat template: llama.cpp "
            "knows less of Jinja. Take a simpler chat_template in the base model's tokenizer_config.json"
        ) from None
    compared = 0
    try:
        for messages in (*CONVERSATIONS, *map(_questions, islice(own, _OWN_CONVERSATIONS))):
            try:
                ours = as_text(messages, task.chat_template, task.chat_tokens, reply=True)
            except InputError:
                continue
            try:
                theirs = server.post("/apply-template", {"messages": messages})["prompt"]
            except ValueError as error:
                raise InputError(f"export.gguf: llama.cpp cannot write a conversation as a text: {error}") from None
            compared += 1
            # Where a file says that texts begin with a token, llama.cpp adds it after the template, and takes it from
            # the template's own text.
            if ours not in (theirs, task.chat_tokens.get("bos_token", "") + theirs):
                raise InputError(
                    f"export.gguf: llama.cpp makes of a conversation {theirs[:200]!r}, the chat template {ours[:200]!r}"
                )
    finally:
        server.close()
    return compared


def check_system(task: LanguageModeling, system: str | None) -> None:
    """Raise `InputError` if the chat template refuses a system prompt, so that no conversation could begin."""
    if system is None or task.chat_template is None:
        return
    messages = [{"role": "system", "content": system}, *CONVERSATIONS[0]]
    try:
        as_text(messages, task.chat_template, task.chat_tokens, reply=True)
    except InputError as error:
        raise InputError(
            f"export.gguf.system: the base model's chat template refuses a system prompt ({error}); leave it out"
        ) from None


def _questions(text: str) -> list[dict[str, Any]]:
    """Return the messages of a conversation up to the last one that is to be answered."""
    messages: list[dict[str, Any]] = json.loads(text)
    while len(messages) > 1 and messages[-1]["role"] == ASSISTANT:
        messages.pop()
    return messages
