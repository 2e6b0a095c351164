"""Checks that llama.cpp reads texts as the tokenizer does, and conversations as the chat template says."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from lissom.errors import InputError
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.serving.llama_server import LlamaServer
from lissom.tasks.chat import as_text
from lissom.tasks.language_modeling import LanguageModeling

_CONTEXT = 64  # of an engine that only tokenises
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
    for text, encoding in zip(all_texts, tokenizer.encode_batch(all_texts), strict=True):
        tokens = opened.tokenize(text)
        expected = encoding.ids[:-1] if encoding.ids and encoding.ids[-1] in ends else encoding.ids
        if tokens != expected:
            pairs = zip([*tokens, None], [*expected, None], strict=False)
            place = next(number for number, (theirs, ours) in enumerate(pairs) if theirs != ours)
            raise InputError(
                f"export.gguf: llama.cpp's tokens of a text differ from the tokenizer's at token {place}: "
                f"{tokens[place : place + 4]} for {expected[place : place + 4]}, in {text[:80]!r}"
            )


def check_templates(path: Path, task: LanguageModeling, context: int) -> int:
    """Compare some conversations as texts by Jinja and by llama.cpp's server; return their number.

    Conversations that the template refuses, such as those with a system prompt, are left out.

    Raises:
        InputError: a conversation becomes another text in llama.cpp.
    """
    if task.chat_template is None:
        return 0
    server, compared = LlamaServer(path, context, threads=1), 0
    try:
        for messages in CONVERSATIONS:
            try:
                ours = as_text(messages, task.chat_template, task.chat_tokens, reply=True)
            except InputError:
                continue
            theirs = server.post("/apply-template", {"messages": messages})["prompt"]
            compared += 1
            if theirs != ours:
                raise InputError(
                    f"export.gguf: llama.cpp makes of a conversation {theirs[:200]!r}, the chat template {ours[:200]!r}"
                )
    finally:
        server.close()
    return compared
