"""Continuation of texts by a language model, one most likely token after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

NEW_TOKENS = 32
"""Tokens of a continuation, unless it ends before."""

Logits = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]
"""Maps `input_ids` and `attention_mask`, each `[batch, n]`, to logits `[batch, n, vocabulary]`."""


def continuations(
    logits: Logits, tokenizer: Tokenizer, texts: Sequence[str], serving: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return `continuation` for every text: the text of the most likely next tokens.

    A text is read from its end as far as `max_length` and the continuation have room.

    Args:
        logits: runs the model.
        tokenizer: the model's tokenizer, without padding and truncation.
        texts: the texts.
        serving: the contents of serving.json.

    Raises:
        ValueError: a text has no tokens.
    """
    count = min(serving["new_tokens"], serving["max_length"] - 1)
    answers = []
    for text in texts:
        ids = tokenizer.encode(text).ids[-(serving["max_length"] - count) :]
        if not ids:
            raise ValueError("a text has no tokens; an empty text cannot be continued")
        new: list[int] = []
        while len(new) < count:
            row = np.asarray([ids + new], dtype=np.int64)
            token = int(logits({"input_ids": row, "attention_mask": np.ones_like(row)})[0, -1].argmax())
            if token in serving["end_ids"]:
                break
            new.append(token)
        whole, before = (tokenizer.decode(tokens, skip_special_tokens=False) for tokens in (ids + new, ids))
        answers.append({"continuation": whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)})
    return answers
