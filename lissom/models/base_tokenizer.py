"""The tokenizer of a base model: as transformers loads it, and as its own files have it."""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig
from transformers.utils import cached_file

from lissom.artifacts import TOKENIZER
from lissom.errors import InputError
from lissom.models.gguf_file import pretrained
from lissom.models.source import is_gguf
from lissom.models.two_tokenizers import read_two_tokenizers

_FEWEST_TOKENS = 16


class BaseTokenizers(NamedTuple):
    """The tokenizers of a base model."""

    transformers: Any
    """As transformers knows it, with the names of the special tokens and the chat template."""
    texts: Tokenizer
    targets: Tokenizer | None
    """That of the translations, if they have one of their own."""


def read_tokenizers(model: str, source: Path | str, revision: str | None, config: PreTrainedConfig) -> BaseTokenizers:
    """Return the tokenizers of a base model.

    Args:
        model: the base model as in the params, for error messages.
        source: folder, GGUF file or name on the hub.
        revision: revision on the hub.
        config: the model's config.

    Raises:
        InputError: the tokenizer is of a kind that serving cannot run, or has no vocabulary.
        Exception: whatever transformers raises if it is missing or damaged.
    """
    if config.model_type == "marian":
        two = read_two_tokenizers(model, source, revision, config)
        if two is not None:
            return BaseTokenizers(*two)
    place, how = pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, **how)
    if not tokenizer.is_fast:
        raise InputError(
            f"base.model {model}: its tokenizer, {type(tokenizer).__name__}, has no fast form (tokenizer.json), "
            "which serving needs; take a model with one"
        )
    own = _own_tokenizer(source, revision) or Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words = set(own.get_vocab()) - set(tokenizer.all_special_tokens)
    if len(words) < _FEWEST_TOKENS:
        # Where the files are missing, transformers makes a tokenizer up, which would read every word as unknown.
        raise InputError(
            f"base.model {model}: its tokenizer has {len(words)} tokens besides special ones; {source} needs "
            f"{TOKENIZER} or a vocabulary: save the tokenizer beside the model, too (tokenizer.save_pretrained)"
        )
    own.no_padding()
    own.no_truncation()
    return BaseTokenizers(tokenizer, own, None)


def tokenizer_config(tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Return the entries that transformers needs beside tokenizer.json; no token ids, since edits renumber tokens."""
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": list(tokenizer.model_input_names),
        **specials,
    }


def _own_tokenizer(source: Path | str, revision: str | None) -> Tokenizer | None:
    """Return the tokenizer as the model's own tokenizer.json has it; None if there is none.

    transformers builds some tokenizers anew from the vocabulary, with default rules in place of the file's.
    """
    if is_gguf(source):
        return None
    path = cached_file(source, TOKENIZER, revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    return Tokenizer.from_file(path)
