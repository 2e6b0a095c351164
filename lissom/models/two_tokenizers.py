"""The two tokenizers of a Marian checkpoint: sentencepiece models of the texts and of the translations.

Checkpoints of OPUS-MT (Tiedemann and Thottingal 2020, "OPUS-MT: Building open translation services for the World") have
a sentencepiece model for either language (source.spm, target.spm) and one numbering of the pieces of both (vocab.json).
Each model becomes a Unigram tokenizer over all the numbers: pieces that it does not have are in its vocabulary with a
mark before them, which no text has, so that both tokenizers read their language as sentencepiece does, and either
writes the tokens of both.

There are two differences from transformers' MarianTokenizer, which has no form that serving could run; both tell the
model more. Pieces without a number are left out, so that shorter pieces are found in their place, where it takes the
unknown token. And of several unknown characters in a row, those that the other language has are found one by one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils import cached_file, sentencepiece_model_pb2_new

from lissom.artifacts import TOKENIZER
from lissom.errors import InputError

_SOURCE, _TARGET, _NUMBERS, _SETTINGS = "source.spm", "target.spm", "vocab.json", "tokenizer_config.json"
_ELSEWHERE = "\ufdd0"
"""Mark of a piece of the other language: a code point that is no character, and in no text."""
_SPECIALS = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
_UNKNOWN_PENALTY = 10.0
"""How far below the lowest score sentencepiece rates an unknown character (unigram_model.cc, kUnkPenalty)."""
_UNIGRAM, _USER_DEFINED = 1, 4
"""Values of `trainer_spec.model_type` and of a piece's `type` in sentencepiece_model.proto."""


def read_two_tokenizers(
    model: str, source: Path | str, revision: str | None, config: PreTrainedConfig
) -> tuple[PreTrainedTokenizerFast, Tokenizer, Tokenizer] | None:
    """Return the tokenizer of the texts as transformers knows it and by itself, and that of the translations.

    None if the checkpoint has a tokenizer.json, or no two sentencepiece models.

    Args:
        model: the base model as in the params, for error messages.
        source: folder or name on the hub.
        revision: revision on the hub.
        config: the model's config.

    Raises:
        InputError: the languages are numbered apart, the models are not of unigrams, or a file is broken.
    """
    names = (TOKENIZER, _SOURCE, _TARGET, _NUMBERS, _SETTINGS)
    single, *paths, settings = (
        cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False) for name in names
    )
    if single is not None or None in paths:
        return None
    if config.decoder_vocab_size not in (None, config.vocab_size) or not config.share_encoder_decoder_embeddings:
        raise InputError(
            f"base.model {model}: the tokens of texts and translations are numbered apart, which is not supported; "
            "take a model with one vocabulary of both languages"
        )
    try:
        numbers = json.loads(Path(paths[2]).read_text(encoding="utf-8"))
        given = {} if settings is None else json.loads(Path(settings).read_text(encoding="utf-8"))
        specials = {name: _content(given.get(name, token)) for name, token in _SPECIALS.items()}
        texts, targets = (_unigram(_parse(Path(path)), numbers, specials) for path in paths[:2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"base.model {model}: {_SOURCE}, {_TARGET} and {_NUMBERS} do not make tokenizers: {error}; copy the model "
            "again"
        ) from None
    names_of_inputs = ["input_ids", "attention_mask"]
    known = PreTrainedTokenizerFast(tokenizer_object=texts, model_input_names=names_of_inputs, **specials)
    return known, texts, targets


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _parse(path: Path) -> Any:
    """Return a sentencepiece model as a message of sentencepiece_model.proto."""
    result = sentencepiece_model_pb2_new.ModelProto()
    try:
        result.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path.name} is no sentencepiece model") from None
    if result.trainer_spec.model_type != _UNIGRAM:
        raise ValueError(f"{path.name} is no model of unigrams")
    if any(piece.type == _USER_DEFINED for piece in result.pieces):
        raise ValueError(f"{path.name} has user-defined pieces, which are not supported")
    return result


def _unigram(parsed: Any, numbers: Mapping[str, int], specials: Mapping[str, str]) -> Tokenizer:
    """Return the tokenizer of a sentencepiece model, its pieces numbered by `numbers`."""
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise ValueError(f"the {len(numbers)} numbers in {_NUMBERS} are not 0, 1, 2, ...")
    scores = {piece.piece: piece.score for piece in parsed.pieces}
    lowest = min(scores.values())
    codes = [token for token in numbers if token.startswith(">>") and token.endswith("<<")]
    added = {*specials.values(), *codes}
    vocabulary = []
    for token in sorted(numbers, key=lambda token: numbers[token]):
        if token in scores or token in added:
            vocabulary.append((token, scores.get(token, lowest)))
        elif len(token) == 1:  # an unknown character is looked up, too
            vocabulary.append((token, lowest - _UNKNOWN_PENALTY))
        else:
            vocabulary.append((_ELSEWHERE + token, lowest))
    result = Tokenizer(Unigram(vocabulary, numbers[specials["unk_token"]], parsed.trainer_spec.byte_fallback))
    rules = parsed.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    result.normalizer = normalizers.Sequence(steps)
    result.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if rules.add_dummy_prefix else "never")
    result.decoder = decoders.Sequence(
        [decoders.Replace(_ELSEWHERE, ""), decoders.ByteFallback(), decoders.Metaspace()]
    )
    end = specials["eos_token"]
    result.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, numbers[end])]
    )
    result.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials.values()])
    # Models for several languages read the code of the wanted one before the text.
    result.add_tokens([AddedToken(code, rstrip=True, normalized=False) for code in codes])
    return result
