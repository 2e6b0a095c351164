"""The vocabulary of a GGUF file: a tokenizer as llama.cpp reads it.

llama.cpp knows byte-level BPE (`gpt2`), BPE with byte fallback as in SentencePiece (`llama`), and WordPiece as uncased
BERTs have it (`bert`). How a text is split
before BPE is a name in the file, for a list of splits that llama.cpp has built in: the tokenizer's own split is looked
up here, and the proof compares the tokens of real texts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gguf
from tokenizers import Tokenizer
from transformers import PreTrainedConfig

from lissom.errors import InputError
from lissom.models.generation import listed

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
SPLITS: dict[tuple[str, ...], str] = {
    (_GPT2_SPLIT,): "gpt-2",
    ("digits", _GPT2_SPLIT): "smollm",
    (_CONTRACTIONS + _TAIL % "{1,3}",): "llama-bpe",
    (_CONTRACTIONS + _TAIL % "",): "qwen2",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "tekken",
}
"""llama.cpp's names of splits, by the regular expressions that a text is split with in turn."""

_NORMALIZERS = {True: ("NFC",), False: ("Prepend", "Replace")}
"""What may be done to a text before it is tokenised: of byte-level BPE, Qwen composes characters, which most texts are
already; of BPE with byte fallback, spaces become a mark."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs to know of a tokenizer."""

    model: str
    """`gpt2`, `llama` or `bert`."""
    split: str
    """llama.cpp's name of the split before BPE."""
    tokens: list[str]
    kinds: list[gguf.TokenType]
    scores: list[float] | None
    """Of a `llama` model: what is merged first has the highest one."""
    merges: list[str] | None
    """Of a `gpt2` model."""
    space_prefix: bool
    """Whether a text is read as if it began with a space."""
    starts: bool
    """Whether the first token of a text is the one that begins texts."""
    ends: bool
    """The same for its end."""
    marks: Mapping[str, int] = field(default_factory=dict)
    """Of a `bert` model: the numbers of its special tokens, by llama.cpp's names; others are those of the config."""


def vocabulary_of(tokenizer: Tokenizer, config: PreTrainedConfig) -> Vocabulary:
    """Return a tokenizer's vocabulary with as many entries as the word table has rows.

    Raises:
        InputError: llama.cpp has no such tokenizer.
    """
    content = json.loads(tokenizer.to_str())
    model, added = content["model"], {token["content"]: token for token in content["added_tokens"]}
    if model["type"] == "WordPiece":
        return _pieces(tokenizer, config, content)
    if model["type"] != "BPE":
        raise InputError(f"export.formats gguf: the tokenizer must be BPE or WordPiece; this one is {model['type']}")
    by_bytes = _uses_bytes(content["pre_tokenizer"])
    changing = [part["type"] for part in _parts(content["normalizer"]) if part["type"] not in _NORMALIZERS[by_bytes]]
    if changing:
        raise InputError(
            f"export.formats gguf: llama.cpp tokenises a text as it is; this tokenizer changes it first "
            f"({', '.join(changing)})"
        )
    split, prefix = (_split_name(content["pre_tokenizer"]), False) if by_bytes else ("default", _prefixes(content))
    tokens, by_id = _listed_tokens(tokenizer, config)
    kinds = [_kind(token, number in by_id, added, model) for number, token in enumerate(tokens)]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    probe = tokenizer.encode("a").ids
    begin, ends = listed(config.bos_token_id), listed(config.eos_token_id)
    return Vocabulary(
        "gpt2" if by_bytes else "llama", split, tokens, kinds,
        None if by_bytes else _scores(tokens, pairs), pairs if by_bytes else None, prefix,
        starts=bool(probe) and probe[0] in begin, ends=len(probe) > 1 and probe[-1] in ends,
    )  # fmt: skip


def write_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, config: PreTrainedConfig, chat_template: str | None
) -> None:
    """Write a vocabulary, its special tokens and the template of conversations."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    writer.add_add_bos_token(vocabulary.starts)
    writer.add_add_eos_token(vocabulary.ends)
    if vocabulary.marks:
        writer.add_bos_token_id(vocabulary.marks["bos"])
        writer.add_sep_token_id(vocabulary.marks["sep"])
        writer.add_unk_token_id(vocabulary.marks["unk"])
        writer.add_mask_token_id(vocabulary.marks["mask"])
    elif config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    ends = listed(config.eos_token_id)
    # llama.cpp has three entries for tokens that end an answer; it knows the common ones by their text besides.
    for token_id, add in zip(
        ends, (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), strict=False
    ):
        add(token_id)
    if config.pad_token_id is not None:
        writer.add_pad_token_id(config.pad_token_id)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _listed_tokens(tokenizer: Tokenizer, config: PreTrainedConfig) -> tuple[list[str], Mapping[int, str]]:
    """Return a text for every row of the word table, and the tokenizer's tokens by their number."""
    by_id = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    return [by_id.get(number, f"[PAD{number}]") for number in range(config.vocab_size)], by_id


def _pieces(tokenizer: Tokenizer, config: PreTrainedConfig, content: Mapping[str, Any]) -> Vocabulary:
    """Return a WordPiece vocabulary: llama.cpp marks beginnings of words, where BERT marks their continuations."""
    normalizer, prefix = content["normalizer"] or {}, content["model"]["continuing_subword_prefix"]
    if normalizer.get("type") != "BertNormalizer" or not normalizer["lowercase"]:
        raise InputError(
            "export.formats gguf: llama.cpp lowercases texts and removes accents before WordPiece; this tokenizer does "
            "not"
        )
    tokens, by_id = _listed_tokens(tokenizer, config)
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    kinds = [
        gguf.TokenType.UNUSED if number not in by_id
        else gguf.TokenType.UNKNOWN if token == content["model"]["unk_token"]
        else gguf.TokenType.CONTROL if token in special
        else gguf.TokenType.NORMAL
        for number, token in enumerate(tokens)
    ]  # fmt: skip
    marked = [
        token if kind != gguf.TokenType.NORMAL
        else token.removeprefix(prefix) if token.startswith(prefix)
        else f"\u2581{token}"
        for token, kind in zip(tokens, kinds, strict=True)
    ]  # fmt: skip
    probe = tokenizer.encode("a").ids
    marks = {"bos": probe[0], "sep": probe[-1], "unk": kinds.index(gguf.TokenType.UNKNOWN)}
    # Without an entry llama.cpp looks for [MASK] where BERT has it, in a vocabulary that may have been trimmed.
    marks["mask"] = tokens.index("[MASK]") if "[MASK]" in tokens else marks["unk"]
    return Vocabulary("bert", "default", marked, kinds, None, None, False, starts=True, ends=True, marks=marks)


def _kind(token: str, is_known: bool, added: Mapping[str, Any], model: Mapping[str, Any]) -> gguf.TokenType:
    if not is_known:
        return gguf.TokenType.UNUSED
    if token == model.get("unk_token") and model.get("byte_fallback"):
        return gguf.TokenType.UNKNOWN
    if token in added:
        return gguf.TokenType.CONTROL if added[token]["special"] else gguf.TokenType.USER_DEFINED
    return gguf.TokenType.BYTE if model.get("byte_fallback") and _BYTE.fullmatch(token) else gguf.TokenType.NORMAL


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return scores by which llama.cpp merges in the order of the merges; single characters come last."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", ""), number)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _parts(content: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the parts of a normaliser or a pre-tokenizer in order."""
    if content is None:
        return []
    inner = content.get("pretokenizers", content.get("normalizers"))
    return [content] if inner is None else list(inner)


def _uses_bytes(split: Mapping[str, Any] | None) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(split))


def _split_name(split: Mapping[str, Any] | None) -> str:
    """Return llama.cpp's name of a byte-level split."""
    steps: list[str] = []
    for part in _parts(split):
        match part:
            case {"type": "ByteLevel", "use_regex": uses, "add_prefix_space": False}:
                steps += [_GPT2_SPLIT] if uses else []
            case {"type": "Digits", "individual_digits": True}:
                steps.append("digits")
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                steps.append(pattern)
            case _:
                raise InputError(f"export.formats gguf: llama.cpp has no split like {json.dumps(part)[:200]}")
    if tuple(steps) not in SPLITS:
        raise InputError(
            f"export.formats gguf: how this tokenizer splits texts is not in llama.cpp's list as known here "
            f"({', '.join(SPLITS.values())}): {' then '.join(steps)[:200]}"
        )
    return SPLITS[tuple(steps)]


def _prefixes(content: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer with byte fallback reads a text as if a space stood before it."""
    if not content["model"].get("byte_fallback"):
        raise InputError(
            "export.formats gguf: a BPE tokenizer must work on bytes or fall back to them, as llama.cpp's do"
        )
    for part in (*_parts(content["normalizer"]), *_parts(content["pre_tokenizer"])):
        if part["type"] == "Prepend" or (part["type"] == "Metaspace" and part["prepend_scheme"] != "never"):
            return True
    return False
