"""Constructing students from a teacher: some of its blocks, or another shape with its task and tokenizer."""

import copy
import json
from collections.abc import Sequence

import torch
from torch import nn
from transformers import (
    AutoConfig,
    DistilBertConfig,
    MobileBertConfig,
    PreTrainedConfig,
)

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepBlocks
from lissom.models.edits.word_table import truncated_svd
from lissom.models.families import classifier_of, family_of
from lissom.models.fused import separate
from lissom.models.patterned import honour_windows
from lissom.models.sites import blocks_at, blocks_of, position_vectors

_OF_ANY_WEIGHTS = {"keep_blocks", "use_attention", "extend_positions"}
"""Kinds of edits that mean the same for random weights."""
TRANSIENT_CONFIG = ("transformers_version", "_name_or_path", "architectures", "dtype")

RELEASED_BLOCKS = {(6, 12): (0, 2, 4, 7, 9, 11)}
"""DistilBERT's own choice of 6 among 12 blocks: the first and the last included (its extraction script)."""


def block_student(available: int, blocks: Sequence[int], stack: str = "") -> list[Edit]:
    """Return the edits that keep some of the teacher's blocks, with its embeddings and head.

    Args:
        available: number of the teacher's blocks.
        blocks: 0-based numbers of the blocks to copy.
        stack: title of the stack, of a network with several.

    Raises:
        InputError: the teacher has no such block.
    """
    beyond = [block for block in blocks if block >= available]
    if beyond:
        key, whose = ("decoder_blocks", "the teacher's decoder") if stack == "decoder" else ("blocks", "the teacher")
        raise InputError(f"distill.{key}: {beyond} do not exist; {whose} has blocks 0 to {available - 1}")
    return [KeepBlocks(kept=tuple(blocks), stack=stack)]


def spread_blocks(available: int) -> tuple[int, ...]:
    """Return half of the blocks, evenly spaced from first to last; DistilBERT's own choice for 12 blocks."""
    half = max(1, available // 2)
    if (half, available) in RELEASED_BLOCKS:
        return RELEASED_BLOCKS[half, available]
    return evenly_spaced(half, available)


def evenly_spaced(count: int, available: int) -> tuple[int, ...]:
    """Return the numbers of `count` out of `available` blocks, from the first to the last."""
    return tuple(round(index * (available - 1) / max(1, count - 1)) for index in range(count))


def take_blocks(model: CompressedModel, blocks: Sequence[int] | None) -> CompressedModel:
    """Return a copy of a model with the given blocks; None keeps all."""
    student = copy.deepcopy(model)
    if blocks is not None:
        student.edit(block_student(len(blocks_of(student.network)), blocks))
    return student


def take_stacks(model: CompressedModel, blocks: Sequence[int], decoder_blocks: Sequence[int] | None) -> CompressedModel:
    """Return a copy of a model with the given blocks; of an encoder-decoder the encoder's and the decoder's.

    Args:
        model: the model.
        blocks: 0-based numbers of the blocks, or of the encoder's.
        decoder_blocks: 0-based numbers of the decoder's; None takes as many as `blocks`, evenly spaced.

    Raises:
        InputError: there is no such block, or there are numbers for a decoder that the model does not have.
    """
    family = family_of(model.network)
    if not family.has_encoder_and_decoder:
        if decoder_blocks is not None:
            raise InputError("distill.decoder_blocks: the teacher has one stack of blocks; set it to null")
        return take_blocks(model, blocks)
    available = len(blocks_at(model.network, family.stacks[1]))
    if decoder_blocks is None:
        decoder_blocks = evenly_spaced(min(len(blocks), available), available)
    student = copy.deepcopy(model)
    for stack, kept in zip(family.stacks, (blocks, decoder_blocks), strict=True):
        count = len(blocks_at(model.network, stack))
        (edit,) = block_student(count, kept, stack.title)
        student.edit([edit])
    return student


def randomized(model: CompressedModel, seed: int) -> CompressedModel:
    """Return a model of the same structure, which its base and edits tell, with weights drawn from `seed`.

    Raises:
        InputError: the model has edits that choose by its weights.
    """
    edits = model.manifest.edits
    if other := sorted({edit.kind for edit in edits} - _OF_ANY_WEIGHTS):
        raise InputError(
            f"random weights are drawn for whole networks, or some of their blocks, with any attention; this one has "
            f"other changes: {', '.join(other)}"
        )
    drawn = reshaped(model, AutoConfig.for_model(**model.manifest.base_config), seed)
    drawn.edit(edits)
    return drawn


def reshaped(model: CompressedModel, config: PreTrainedConfig, seed: int) -> CompressedModel:
    """Return a model with the task, labels and tokenizer of `model` and a network of `config`, random from `seed`."""
    torch.manual_seed(seed)
    config = copy.deepcopy(config)
    for name, value in {**model.manifest.task.head_config(), "pad_token_id": model.network.config.pad_token_id}.items():
        setattr(config, name, value)
    network = separate(model.manifest.task.auto_class.from_config(config, dtype=torch.float32)).eval()
    honour_windows(network)
    return CompressedModel(
        network=network,
        tokenizer=copy.deepcopy(model.tokenizer),
        target_tokenizer=copy.deepcopy(model.target_tokenizer),
        tokenizer_config=dict(model.tokenizer_config),
        manifest=model.manifest.model_copy(update={"base_config": config_values(config), "edits": ()}),
    )


def config_values(config: PreTrainedConfig) -> dict[str, object]:
    """Return a config as a dict without its transient entries, as stored in the manifest."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in values.items() if name not in TRANSIENT_CONFIG}


def distilbert_student(teacher: CompressedModel, blocks: Sequence[int]) -> CompressedModel:
    """Return a DistilBERT (no token types, no pooler) with blocks, embeddings and head of a BERT.

    The embedding of token type 0 is added to every position, so that the embeddings of single texts do not change.

    Raises:
        InputError: the teacher is no BERT.
    """
    bert, source = teacher.network, teacher.network.config
    has_edits = any(edit.kind != "keep_blocks" for edit in teacher.manifest.edits)
    if source.model_type != "bert" or has_edits:
        raise InputError(
            f"distill.architecture: distilbert is made of an uncompressed BERT; the teacher is a {source.model_type}"
            f"{' with edits' if has_edits else ''}; use architecture: teacher"
        )
    config = DistilBertConfig(
        vocab_size=source.vocab_size, max_position_embeddings=source.max_position_embeddings, dim=source.hidden_size,
        n_layers=len(blocks), n_heads=source.num_attention_heads, hidden_dim=source.intermediate_size,
        activation=source.hidden_act, dropout=source.hidden_dropout_prob,
        attention_dropout=source.attention_probs_dropout_prob,
    )  # fmt: skip
    student = reshaped(teacher, config, seed=0)
    embeddings, tables = bert.bert.embeddings, student.network.distilbert.embeddings
    _copy(embeddings.word_embeddings, tables.word_embeddings)
    _copy(embeddings.LayerNorm, tables.LayerNorm)
    with torch.no_grad():
        types = embeddings.token_type_embeddings.weight[0]
        tables.position_embeddings.weight.copy_(embeddings.position_embeddings.weight + types)
    old, new = (family_of(network).stack for network in (bert, student.network))
    block_student(source.num_hidden_layers, blocks)  # refuses blocks that do not exist
    for block, target in zip(blocks, blocks_of(student.network), strict=True):
        origin = blocks_of(bert)[block]
        for name in ("query", "key", "value", "output"):
            paths = (getattr(stack.attention[0], name) for stack in (old, new))
            _copy(origin.get_submodule(next(paths)), target.get_submodule(next(paths)))
        _copy(origin.get_submodule(old.ffn[0].inputs[0]), target.get_submodule(new.ffn[0].inputs[0]))
        _copy(origin.get_submodule(old.ffn[0].output), target.get_submodule(new.ffn[0].output))
        _copy(origin.get_submodule("attention.output.LayerNorm"), target.get_submodule("sa_layer_norm"))
        _copy(origin.get_submodule("output.LayerNorm"), target.get_submodule("output_layer_norm"))
    if bert.bert.pooler is not None:  # tokens are classified without it
        _copy(bert.bert.pooler.dense, student.network.pre_classifier)
    _copy(bert.classifier, student.network.classifier)
    return student


def mobilebert_student(
    teacher: CompressedModel,
    *,
    blocks: int | None,
    bottleneck: int,
    intermediate: int,
    ffns: int,
    embedding: int,
    seed: int,
) -> CompressedModel:
    """Return a MobileBERT with the teacher's hidden size and number of heads (Sun et al. 2020, arXiv:2004.02984,
    §3.1-3.2).

    The word table is initialised with the leading singular directions of the teacher's; positions are copied, and the
    classifier where shapes agree; all other weights are drawn from `seed`.

    Raises:
        InputError: the heads do not divide the bottleneck.
    """
    source, family = teacher.network.config, family_of(teacher.network)
    heads = source.num_attention_heads
    if bottleneck % heads:
        raise InputError(
            f"distill.shape.bottleneck_size: {bottleneck} is not divisible by the teacher's {heads} heads, "
            "whose attention is matched one by one"
        )
    positions = position_vectors(teacher.network)
    config = MobileBertConfig(
        vocab_size=source.vocab_size, hidden_size=source.hidden_size, num_attention_heads=heads,
        num_hidden_layers=blocks or len(blocks_of(teacher.network)), intermediate_size=intermediate,
        embedding_size=embedding, intra_bottleneck_size=bottleneck, num_feedforward_networks=ffns,
        max_position_embeddings=source.max_position_embeddings if positions is None else len(positions),
        classifier_activation=True,
    )  # fmt: skip
    student = reshaped(teacher, config, seed)
    tables = student.network.mobilebert.embeddings
    table = teacher.network.get_submodule(family.word_table)
    with torch.no_grad():
        if isinstance(table, nn.Embedding) and embedding <= table.weight.shape[1]:
            thin, directions = truncated_svd(table.weight, embedding)
            tables.word_embeddings.weight.copy_(thin)
            middle = tables.embedding_transformation.weight[:, embedding : 2 * embedding]
            middle.copy_(directions)
        if positions is not None:
            tables.position_embeddings.weight.copy_(positions)
    classifier = classifier_of(teacher.network)
    assert classifier is not None, "a teacher has a classifier"
    _copy_same_shape(teacher.network.get_submodule(classifier), student.network.classifier)
    return student


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def _copy_same_shape(source: nn.Module, target: nn.Module) -> None:
    shapes = [{name: t.shape for name, t in module.state_dict().items()} for module in (source, target)]
    if shapes[0] == shapes[1]:
        _copy(source, target)
