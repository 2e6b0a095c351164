"""Tiny networks of every family, with a real tokenizer of a hundred words: milliseconds each."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MobileBertConfig,
    ModernBertConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from lissom.data.batches import Batch
from lissom.models.capabilities import Technique, limit_of
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.families import FAMILIES
from lissom.models.fused import separate
from lissom.models.manifest import Manifest
from lissom.models.patterned import honour_windows
from lissom.models.sites import head_groups
from lissom.tasks.classification import Classification
from lissom.tasks.task import Task
from lissom.training.losses import against_targets
from lissom.training.predicting import Scorer, score

WORDS = [
    "the",
    "good",
    "bad",
    "fine",
    "poor",
    "film",
    "movie",
    "plot",
    "story",
    "was",
    "is",
    "not",
    "very",
    "actor",
    "scene",
    "ending",
    "start",
    "great",
    "dull",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
SIZE = len(VOCABULARY)
TASK = Classification(name="tiny", labels=("bad", "good", "so-so"), pair=False, max_length=16)
LOSS = against_targets(TASK)

_COMMON = {"vocab_size": SIZE, "num_labels": 3, "pad_token_id": 0}
_BERT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_LLAMA = _BERT | {"num_key_value_heads": 2, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2}
_ROBERTA = (
    _BERT
    | {"max_position_embeddings": 26, "type_vocab_size": 1}
    | _COMMON
    | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
)
_DEBERTA = (
    _BERT
    | {"relative_attention": True, "position_buckets": 6, "max_position_embeddings": 24, "norm_rel_ebd": "layer_norm"}
    | {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0}
    | _COMMON
)
_MODERN = {"bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
CONFIGS = {
    "bert": lambda: BertConfig(**_BERT, max_position_embeddings=24, **_COMMON),
    "deberta-v2": lambda: DebertaV2Config(**_DEBERTA, share_att_key=True),
    "distilbert": lambda: DistilBertConfig(
        dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=24, **_COMMON
    ),
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=4, n_head=4, n_inner=48, n_positions=24, bos_token_id=1, eos_token_id=2, **_COMMON
    ),
    "mistral": lambda: MistralConfig(head_dim=8, sliding_window=4, **_LLAMA, **_COMMON),
    "mobilebert": lambda: MobileBertConfig(
        **_BERT,
        embedding_size=16,
        intra_bottleneck_size=32,
        num_feedforward_networks=2,
        max_position_embeddings=24,
        classifier_activation=True,
        **_COMMON,
    ),
    "modernbert": lambda: ModernBertConfig(  # the first and the last block see everything, those between see 2 tokens
        **_BERT, max_position_embeddings=24, local_attention=4, **_MODERN, **_COMMON
    ),
    "qwen2": lambda: Qwen2Config(  # two blocks without the window, two with it
        use_sliding_window=True, sliding_window=4, max_window_layers=2, **_LLAMA, **_COMMON
    ),
    "qwen3": lambda: Qwen3Config(head_dim=8, **_LLAMA, **_COMMON),
    "gemma2": lambda: Gemma2Config(
        head_dim=8, query_pre_attn_scalar=12, sliding_window=4, attn_logit_softcapping=2.0, **_LLAMA, **_COMMON
    ),
    "gemma3_text": lambda: Gemma3TextConfig(  # heads wider than the hidden size has room for; every second block local
        head_dim=16, query_pre_attn_scalar=12, sliding_window=4, sliding_window_pattern=2, **_LLAMA, **_COMMON
    ),
    "llama": lambda: LlamaConfig(head_dim=8, **_LLAMA, **_COMMON),
    "camembert": lambda: CamembertConfig(**_ROBERTA),
    "roberta": lambda: RobertaConfig(**_ROBERTA),
    "xlm-roberta": lambda: XLMRobertaConfig(**_ROBERTA),
    "electra": lambda: ElectraConfig(**_BERT, embedding_size=16, max_position_embeddings=24, **_COMMON),
}
FAMILY_NAMES = sorted(CONFIGS)


def able(*techniques: Technique) -> list[str]:
    """Return the families that some techniques work with."""
    return [name for name in FAMILY_NAMES if all(_works(name, technique) for technique in techniques)]


def _works(family: str, technique: Technique) -> bool:
    limit = limit_of(FAMILIES[family], technique)
    return limit is None or limit.partly


def suited(family: str, edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits without those of the word table, if the family cannot have them."""
    of_the_table = () if family in able("word_table") else ("keep_vocabulary", "factorize_word_table")
    return [edit for edit in edits if edit.kind not in of_the_table]


def tokenizer() -> Tokenizer:
    result = Tokenizer(models.WordPiece({token: index for index, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer()
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    result.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    return result


def byte_level_tokenizer() -> Tokenizer:
    """A tokenizer like RoBERTa's: the words of `WORDS`, as the first word of a text and within one."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = {f"{start}{word}"[:end] for start in ("", "\u0120") for word in WORDS for end in range(1, len(word) + 2)}
    alphabet = sorted({*byte_level.alphabet(), *LETTERS})
    words = sorted(
        (piece for piece in pieces if len(piece) > 1), key=lambda piece: (piece[0] in LETTERS, len(piece), piece)
    )
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *words]
    merges = [(piece[:-1], piece[-1]) for piece in words]
    result = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, merges, unk_token="<unk>"))
    result.pre_tokenizer = byte_level
    result.decoder = decoders.ByteLevel()
    result.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    result.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    return result


def unigram_tokenizer() -> Tokenizer:
    """A tokenizer like XLM-RoBERTa's: pieces with scores, the padding token second."""
    words = [f"\u2581{word}"[start:] for word in WORDS for start in (0, 1)]
    pieces = [
        ("\u2581", -3.0),
        *((letter, -9.0) for letter in LETTERS),
        *((word, -4.0) for word in words),
        ("xq", -20.0),
    ]
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    result = Tokenizer(models.Unigram([*((token, 0.0) for token in specials), *pieces], unk_id=3))
    result.pre_tokenizer = pre_tokenizers.Metaspace()
    result.decoder = decoders.Metaspace()
    result.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    result.add_special_tokens([*specials, AddedToken("<mask>", lstrip=True)])
    return result


def model(family: str, seed: int = 0, task: Task = TASK, **changes: Any) -> CompressedModel:
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    for name, value in {**task.head_config(), **changes}.items():
        setattr(config, name, value)
    network: PreTrainedModel = separate(task.auto_class.from_config(config)).eval()
    honour_windows(network)
    for parameter in network.parameters():  # biases and norms other than 0 and 1, so that losing one shows
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for table in network.modules():  # padding has no vector, as everywhere
        if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
            table.weight.data[table.padding_idx] = 0
    base_config = json.loads(config.to_json_string(use_diff=False))
    return CompressedModel(
        network=network,
        tokenizer=tokenizer(),
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"},
        manifest=Manifest(base="dir:tiny", base_sha256=None, base_config=base_config, task=task),
    )


def batch(family: str, size: int = 6, length: int = 9, seed: int = 1) -> Batch:
    """Ragged examples with at least two real tokens each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, SIZE, (size, length), generator=generator)
    lengths = torch.randint(2, length + 1, (size,), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    return Batch(
        inputs={
            "input_ids": torch.where(mask.bool(), ids, CONFIGS[family]().pad_token_id),
            "attention_mask": mask,
            "token_type_ids": torch.zeros_like(ids),
        },
        targets=torch.randint(0, 3, (size,), generator=generator),
        indices=torch.arange(size),
    )


def scorer(model: CompressedModel, data) -> Scorer:
    """Dev score of a model on examples."""
    task = model.manifest.task
    return Scorer(task.metric, lambda: score(model.network, data, model.pad_id, task))


def units(network: PreTrainedModel) -> int:
    """Removable heads of a block."""
    return network.config.num_attention_heads // head_groups(network)
