"""A base model that does not exist yet: random weights, and a vocabulary of pieces learnt from the training texts.

The tokenizer of a translator is that of sentencepiece (Kudo and Richardson 2018, arXiv:1808.06226) with byte-pair
encoding, and bytes for unknown characters. A language model's is byte-pair encoding of bytes, as GPT-2 has it, since
spaces and line ends are part of what it continues; llama.cpp reads the same tokens. The training of both is
deterministic, which that of a unigram model in `tokenizers` is not: a stage that was killed must find the same model
again.
"""

import json
from collections.abc import Callable, Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BartConfig, GPT2Config, LlamaConfig, MarianConfig, PreTrainedConfig, T5Config

from lissom.errors import InputError
from lissom.models.capabilities import check_family, technique_of
from lissom.models.compressed import CompressedModel
from lissom.models.config import NEW, BaseParams, NewModelParams
from lissom.models.fused import separate
from lissom.models.manifest import Manifest
from lissom.models.students import config_values
from lissom.tasks.kinds import AnyTask

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"
_SPECIALS = [_PAD, _END, _UNKNOWN]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_IDS = {"pad_token_id": 0, "eos_token_id": 1}
_WRITER = {**_IDS, "bos_token_id": None, "decoder_start_token_id": 0, "forced_eos_token_id": None}


def new_model(params: BaseParams, task: AnyTask, seed: int, texts: Iterable[str]) -> CompressedModel:
    """Return a model of the family that `params.model` names (`new:marian`), of the sizes of `params.shape`.

    Args:
        params: family, sizes and the longest input.
        task: the task.
        seed: seed of the weights.
        texts: what the vocabulary is learnt from.

    Raises:
        InputError: no such family can be made, or it does not suit the task.
    """
    family, shape = params.model.removeprefix(NEW), params.shape or NewModelParams()
    if family not in CONFIGS:
        known = ", ".join(f"{NEW}{name}" for name in sorted(CONFIGS))
        raise InputError(f"base.model {params.model}: no such family can be made; allowed: {known}")
    check_family(family, technique_of(task), f"base.model {params.model}")
    tokenizer = learn_tokenizer(texts, shape.vocabulary, ends=task.writes_texts)
    config = CONFIGS[family](shape, tokenizer.get_vocab_size(), params.max_length)
    torch.manual_seed(seed)
    network = separate(task.auto_class.from_config(config, dtype=torch.float32)).eval()
    return CompressedModel(
        network=network,
        tokenizer=tokenizer,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": params.max_length,
            "pad_token": _PAD, "eos_token": _END, "unk_token": _UNKNOWN,
        },
        manifest=Manifest(base=params.model, base_sha256=None, base_config=config_values(config), task=task),
    )  # fmt: skip


def learn_tokenizer(texts: Iterable[str], size: int, *, ends: bool) -> Tokenizer:
    """Return a tokenizer whose vocabulary is learnt from texts.

    Args:
        texts: the texts.
        size: the most tokens, of which 259 are special tokens and bytes.
        ends: whether every text is encoded with an end token; without, it is continued.
    """
    return _learn_pieces(texts, size) if ends else _learn_bytes(texts, size)


def _learn_bytes(texts: Iterable[str], size: int) -> Tokenizer:
    """Return a tokenizer like GPT-2's: every text comes back as it was, spaces and line ends too."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer, result.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(len(_SPECIALS) + len(_BYTES), size), special_tokens=_SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    result.train_from_iterator(texts, trainer)
    return result


def _learn_pieces(texts: Iterable[str], size: int) -> Tokenizer:
    """Return a tokenizer like sentencepiece's, with bytes for characters that the texts lack."""
    learner = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    learner.normalizer, learner.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=max(len(_SPECIALS) + 1, size - len(_BYTES)), special_tokens=_SPECIALS, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = [piece for piece in sorted(learnt["vocab"], key=learnt["vocab"].__getitem__) if piece not in _SPECIALS]
    vocabulary = {piece: number for number, piece in enumerate([*_SPECIALS, *_BYTES, *pieces])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    result = Tokenizer(models.BPE(vocabulary, merges, unk_token=_UNKNOWN, byte_fallback=True))
    result.normalizer, result.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    result.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    result.add_special_tokens(_SPECIALS)
    result.post_processor = processors.TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, 1)])
    return result


def _bart_sizes(shape: NewModelParams, vocabulary: int, longest: int) -> dict[str, object]:
    """Return the entries that BART and Marian have in common."""
    sides = ("encoder", "decoder")
    return {
        "vocab_size": vocabulary, "d_model": shape.width, "dropout": shape.dropout, "scale_embedding": True,
        "max_position_embeddings": longest, "activation_function": "relu", **_WRITER,
        **{f"{side}_layers": shape.blocks for side in sides},
        **{f"{side}_attention_heads": shape.heads for side in sides},
        **{f"{side}_ffn_dim": shape.neurons for side in sides},
    }  # fmt: skip


def _marian(shape: NewModelParams, vocabulary: int, longest: int) -> PreTrainedConfig:
    return MarianConfig(**_bart_sizes(shape, vocabulary, longest), decoder_vocab_size=vocabulary)


def _bart(shape: NewModelParams, vocabulary: int, longest: int) -> PreTrainedConfig:
    return BartConfig(**_bart_sizes(shape, vocabulary, longest), forced_bos_token_id=None)


def _t5(shape: NewModelParams, vocabulary: int, longest: int) -> PreTrainedConfig:  # noqa: ARG001  (has no positions)
    return T5Config(
        vocab_size=vocabulary, d_model=shape.width, d_kv=shape.width // shape.heads, num_heads=shape.heads,
        num_layers=shape.blocks, d_ff=shape.neurons, dropout_rate=shape.dropout, **_WRITER,
    )  # fmt: skip


def _llama(shape: NewModelParams, vocabulary: int, longest: int) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.width, num_hidden_layers=shape.blocks, bos_token_id=None,
        num_attention_heads=shape.heads, intermediate_size=shape.neurons, max_position_embeddings=longest,
        attention_dropout=shape.dropout, tie_word_embeddings=True, **_IDS,
    )  # fmt: skip


def _gpt2(shape: NewModelParams, vocabulary: int, longest: int) -> PreTrainedConfig:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    return GPT2Config(
        vocab_size=vocabulary, n_embd=shape.width, n_layer=shape.blocks, n_head=shape.heads, n_inner=shape.neurons,
        n_positions=longest, bos_token_id=None, **drops, **_IDS,
    )  # fmt: skip


CONFIGS: dict[str, Callable[[NewModelParams, int, int], PreTrainedConfig]] = {
    "bart": _bart, "gpt2": _gpt2, "llama": _llama, "marian": _marian, "t5": _t5,
}  # fmt: skip
"""By family: the config of some sizes, a number of tokens and the longest input."""
