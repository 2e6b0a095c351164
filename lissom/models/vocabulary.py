"""Trimming the vocabulary of a tokenizer such that any text still tokenises."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lissom.errors import InputError

KNOWN_MODELS = ("WordPiece", "BPE", "Unigram")


def closed_vocabulary(
    tokenizer: Tokenizer, counts: NDArray[np.int64], min_count: int, fixed: Iterable[int] = ()
) -> tuple[int, ...]:
    """Return the ids of the tokens to keep: those that occur at least `min_count` times, and all required ones.

    Required are special tokens; single characters (with and without the continuation prefix), from which every word
    can be built; for BPE the parts from which a kept token is merged; and for Unigram the unknown token and the piece
    with the lowest score, from which the score of an unknown character is computed.

    Args:
        tokenizer: the full tokenizer.
        counts: occurrences of every token id in the domain's texts, `[V]`.
        min_count: tokens with fewer occurrences are dropped.
        fixed: further tokens to keep.

    Raises:
        InputError: the tokenizer is of a kind that cannot be trimmed here.
    """
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model["type"] not in KNOWN_MODELS:
        raise InputError(
            f"factorize.min_count: {model['type']} tokenizers cannot be trimmed, only {', '.join(KNOWN_MODELS)}; "
            "set min_count to null"
        )
    prefix = model.get("continuing_subword_prefix") or ""
    vocabulary = vocabulary_of(model)
    token_ids = {token["id"] for token in spec["added_tokens"]} | set(fixed)
    for token, index in vocabulary.items():
        byte_fallback = token.startswith("<0x") and token.endswith(">")
        must_stay = len(token.removeprefix(prefix)) <= 1 or byte_fallback or token == model.get("unk_token")
        if must_stay or (index < len(counts) and counts[index] >= min_count):
            token_ids.add(index)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        token_ids |= {scores.index(min(scores))} | ({model["unk_id"]} - {None})
    if model["type"] == "BPE":
        for left, right in reversed(_merges(model)):  # later merges build on earlier ones
            if vocabulary[left + right] in token_ids:
                token_ids.update((vocabulary[left], vocabulary[right]))
    return tuple(sorted(token_ids))


def trim_tokenizer(tokenizer: Tokenizer, token_ids: Sequence[int]) -> Tokenizer:
    """Return a tokenizer with only the tokens `kept`, renumbered 0, 1, 2, ... in their order."""
    spec = json.loads(tokenizer.to_str())
    new_id = {old: new for new, old in enumerate(token_ids)}
    model = spec["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in token_ids if old < len(model["vocab"])]
        model["unk_id"] = None if model["unk_id"] is None else new_id[model["unk_id"]]
    else:
        ordered = sorted(vocabulary_of(model).items(), key=lambda item: item[1])
        model["vocab"] = {token: new_id[index] for token, index in ordered if index in new_id}
    if model["type"] == "BPE":
        # A merge is kept if its result and both of its parts are.
        model["merges"] = [
            [left, right] for left, right in _merges(model) if {left, right, left + right} <= model["vocab"].keys()
        ]
    for token in spec["added_tokens"]:
        token["id"] = new_id[token["id"]]
    renumber_specials(spec.get("post_processor"), new_id)
    return Tokenizer.from_str(json.dumps(spec))


def vocabulary_of(model: dict[str, Any]) -> dict[str, int]:
    """Return the id of every piece; a Unigram model stores pieces with scores, in the order of their ids."""
    if model["type"] == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    vocabulary: dict[str, int] = model["vocab"]
    return vocabulary


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def renumber_specials(processor: Any, new_id: dict[int, int]) -> None:
    """Renumber the special tokens that a post-processor adds, in place."""
    match processor:
        case {"type": "TemplateProcessing", "special_tokens": specials}:
            for special in specials.values():
                special["ids"] = [new_id[old] for old in special["ids"]]
        case {"type": "BertProcessing" | "RobertaProcessing"}:
            for name in ("sep", "cls"):
                token, old = processor[name]
                processor.update({name: [token, new_id[old]]})
        case {"type": "Sequence", "processors": parts}:
            for part in parts:
                renumber_specials(part, new_id)
        case _:
            pass


def changed_tokens(before: Tokenizer, after: Tokenizer, texts: Iterable[tuple[str, str | None]]) -> dict[str, int]:
    """Count the effects of trimming on texts: tokens before and after, tokens that changed, unknown tokens."""
    unknown = {"[UNK]", "<unk>"}
    counts = dict.fromkeys(("tokens", "tokens_changed", "tokens_after", "unknown_before", "unknown_after"), 0)
    for text, pair in texts:
        old, new = (_pieces(tokenizer, text, pair) for tokenizer in (before, after))
        counts["tokens"] += len(old)
        counts["tokens_after"] += len(new)
        counts["tokens_changed"] += len(set(old) - set(new))
        counts["unknown_before"] += sum(token in unknown for *_, token in old)
        counts["unknown_after"] += sum(token in unknown for *_, token in new)
    return counts


def _pieces(tokenizer: Tokenizer, text: str, pair: str | None) -> list[tuple[int, tuple[int, int], str]]:
    encoding = tokenizer.encode(text, pair, add_special_tokens=False)
    # `encoding.tokens` of a Unigram have the text itself in place of the unknown token.
    tokens = [tokenizer.id_to_token(index) or "" for index in encoding.ids]
    return list(zip(encoding.type_ids, encoding.offsets, tokens, strict=True))


def count_tokens(tokens: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """Count the occurrences of every token id, `[V]`."""
    return np.bincount(tokens, minlength=size).astype(np.int64)
