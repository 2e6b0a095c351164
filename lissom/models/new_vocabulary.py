"""A vocabulary that is learnt from a domain's texts, for a model that has another one.

The tokenizer keeps its algorithm (WordPiece or BPE), how it normalises and splits texts, its special tokens, and every
character or byte that it knew, so that any text still tokenises.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, models, trainers

from lissom.errors import InputError
from lissom.models.vocabulary import renumber_specials, vocabulary_of

_RARE = 2
"""Pieces of fewer occurrences are not learnt."""
_TRAINABLE = ("WordPiece", "BPE")


def learn_pieces(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the tokens of a new vocabulary in order, and the merges of a BPE.

    Special tokens come first, then characters and bytes that must stay, then what is learnt.

    Args:
        tokenizer: the present one.
        texts: the domain.
        size: the most tokens; more only if special tokens and characters alone are more.

    Raises:
        InputError: the tokenizer is of another kind.
    """
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    if model["type"] not in _TRAINABLE:
        raise InputError(
            f"factorize.vocabulary: the vocabulary of a {model['type']} tokenizer cannot be learnt anew, only of "
            f"{' and '.join(_TRAINABLE)}; set it to null"
        )
    prefix, known = model.get("continuing_subword_prefix") or "", vocabulary_of(model)
    specials = [token["content"] for token in sorted(spec["added_tokens"], key=lambda token: token["id"])]
    unknown = [model["unk_token"]] if model.get("unk_token") and model["unk_token"] not in specials else []
    characters = [
        token for token in sorted(known, key=known.__getitem__)
        if len(token.removeprefix(prefix)) == 1 or (token.startswith("<0x") and token.endswith(">"))
    ]  # fmt: skip
    required = list(dict.fromkeys([*specials, *unknown, *characters]))
    texts = list(texts)
    learner = _learner(tokenizer, model)
    usual = _usual_characters(tokenizer, texts)
    alphabet = sorted(usual | {token for token in characters if len(token) == 1 and token not in specials})
    learner.train_from_iterator(texts, _trainer(model["type"], prefix, size, alphabet))
    learnt = json.loads(learner.to_str())["model"]
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt.get("merges", [])
    ]
    room = max(0, size - len(required))
    fresh = [token for token in sorted(learnt["vocab"], key=learnt["vocab"].__getitem__) if token not in required][
        :room
    ]
    tokens = [*required, *fresh]
    present = set(tokens)
    return tokens, [(left, right) for left, right in merges if {left, right, left + right} <= present]


def with_pieces(tokenizer: Tokenizer, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Return a tokenizer with another vocabulary, `tokens` numbered in their order."""
    spec = json.loads(tokenizer.to_str())
    numbers = {token: number for number, token in enumerate(tokens)}
    new_ids = {token["id"]: numbers[token["content"]] for token in spec["added_tokens"]}
    spec["model"]["vocab"] = numbers
    if spec["model"]["type"] == "BPE":
        spec["model"]["merges"] = [list(merge) for merge in merges]
    for token in spec["added_tokens"]:
        token["id"] = numbers[token["content"]]
    renumber_specials(spec.get("post_processor"), new_ids)
    return Tokenizer.from_str(json.dumps(spec))


def old_pieces(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[tuple[int, ...]]:
    """Return the old tokens that every new token consists of; of one that the old tokenizer cannot spell, none."""
    spec = json.loads(tokenizer.to_str())
    model = spec["model"]
    prefix, known = model.get("continuing_subword_prefix") or "", vocabulary_of(model)
    known = known | {token["content"]: token["id"] for token in spec["added_tokens"]}
    if model["type"] == "BPE":
        return [
            (known[token],) if token in known else tuple(piece.id for piece in tokenizer.model.tokenize(token))
            for token in tokens
        ]
    return [_longest_first(token, prefix, known) for token in tokens]


def _longest_first(token: str, prefix: str, known: dict[str, int]) -> tuple[int, ...]:
    """Spell a token by the longest pieces from the left, as WordPiece does; `##` stays a continuation."""
    result: list[int] = []
    rest = token
    while rest and rest != prefix:
        least = len(prefix) if prefix and rest.startswith(prefix) else 0
        end = next((end for end in range(len(rest), least, -1) if rest[:end] in known), None)
        if end is None:
            return ()
        result.append(known[rest[:end]])
        rest = prefix + rest[end:]
    return tuple(result)


def _usual_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """Return the characters that occur more often than is rare, after normalisation."""
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer is not None else str
    counts = Counter(character for text in texts for character in normalize(text))
    return {character for character, count in counts.items() if count >= _RARE and not character.isspace()}


def _learner(tokenizer: Tokenizer, model: dict[str, Any]) -> Tokenizer:
    empty = models.BPE() if model["type"] == "BPE" else models.WordPiece({})
    result = Tokenizer(empty)
    if tokenizer.normalizer is not None:
        result.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        result.pre_tokenizer = tokenizer.pre_tokenizer
    return result


def _trainer(kind: str, prefix: str, size: int, alphabet: Sequence[str]) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": size, "min_frequency": _RARE, "show_progress": False,
        "initial_alphabet": list(alphabet),
    }  # fmt: skip
    if kind == "BPE":
        return trainers.BpeTrainer(**settings)
    # The trainer numbers continuations as it meets them, in an order that differs from run to run, and ties between
    # pairs are decided by numbers. What is special is numbered first, in the order given.
    continuations = [prefix + character for character in settings["initial_alphabet"]]
    return trainers.WordPieceTrainer(continuing_subword_prefix=prefix, special_tokens=continuations, **settings)
