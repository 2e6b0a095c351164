"""Continuation of texts by a language model, one most likely token after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

NEW_TOKENS = 32
"""Tokens of a continuation, unless it ends before."""

Step = Callable[[Sequence[int], Any], tuple[NDArray[np.float32], Any]]
"""Reads further tokens of a text, given the state after those before (None at first); returns the logits of the next
one, `[vocabulary]`, and the state."""


def continuations(
    step: Step, tokenizer: Tokenizer, texts: Sequence[str], serving: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return `continuation` for every text: the text of the most likely next tokens.

    A text is read from its end as far as `max_length` and the continuation have room; the text has half of it at least.

    Args:
        step: runs the model.
        tokenizer: the model's tokenizer, without padding and truncation.
        texts: the texts.
        serving: the contents of serving.json.

    Raises:
        ValueError: a text has no tokens.
    """
    count = min(serving["new_tokens"], serving["max_length"] // 2)
    answers = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        if len(ids) > 1 and ids[-1] in serving["end_ids"]:  # some tokenizers end every text
            ids = ids[:-1]
        ids = ids[-(serving["max_length"] - count) :]
        if not ids:
            raise ValueError("a text has no tokens; an empty text cannot be continued")
        new: list[int] = []
        logits, state = step(ids, None)
        while (token := int(logits.argmax())) not in serving["end_ids"]:
            new.append(token)
            if len(new) == count:
                break
            logits, state = step([token], state)
        whole, before = (tokenizer.decode(tokens, skip_special_tokens=False) for tokens in (ids + new, ids))
        answers.append({"continuation": whole[len(before) :] if whole.startswith(before) else tokenizer.decode(new)})
    return answers
