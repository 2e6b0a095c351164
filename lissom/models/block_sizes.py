"""How large the parts of a network are: where its bytes lie before anything is compressed, and afterwards."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from lissom.artifacts import MANIFEST
from lissom.errors import InputError
from lissom.models.anatomy import Measure, anatomy
from lissom.models.compact_file import encoded
from lissom.models.directory import load
from lissom.models.families import FAMILIES
from lissom.models.fused import separate
from lissom.models.gguf_file import read_config
from lissom.models.loading import loading
from lissom.models.source import locate
from lissom.models.tied import untied_state


@dataclass(frozen=True)
class Part:
    """A part of a network, such as a block, in bytes."""

    name: str
    attention: int
    """Projections of attention, biases included, norms not; 0 outside blocks."""
    ffn: int
    """Projections of the feed-forward network, biases included, norms not; 0 outside blocks."""
    other: int

    @property
    def all(self) -> int:
        """Return the bytes of the part."""
        return self.attention + self.ffn + self.other


def parts_at(place: str) -> list[Part]:
    """Return the parts of a model directory; or of a model of transformers, from its config alone, in float32.

    Args:
        place: a folder; or as base.model of the params: `hub:NAME`, `package:NAME/FOLDER`, `dir:FOLDER`.

    Raises:
        InputError: there is no such model, or it is of no known family.
    """
    if not (Path(place) / MANIFEST).is_file():
        return parts_of(network_without_weights(place), _plain_bytes)
    model = load(place)
    is_compact = any(edit.is_compact for edit in model.manifest.edits)
    return parts_of(model.network, _compact_bytes if is_compact else _plain_bytes)


def parts_of(network: PreTrainedModel, measure: Measure) -> list[Part]:
    """Return the embeddings, the blocks, and the rest (norms, pooler, head), in bytes; tied weights count once."""
    sizes = anatomy(network, measure)
    return [
        Part("embeddings", 0, 0, sizes.embeddings),
        *(Part(block.name, block.attention, block.ffn, 0) for block in sizes.blocks),
        Part("norms, pooler and head", 0, 0, sizes.other),
    ]


def _plain_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in untied_state(module).values())


def _compact_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in encoded(untied_state(module)).values())


def network_without_weights(place: str) -> PreTrainedModel:
    """Return a network of transformers on the meta device, as its config describes it.

    Args:
        place: as for `parts_at`.

    Raises:
        InputError: there is no such model, or it is of no known family.
    """
    source, revision = locate(place if ":" in place else f"dir:{place}", "model")
    with loading(place, source, "model"):
        config = read_config(source, revision)
    if config.model_type not in FAMILIES:
        raise InputError(f"{place}: type {config.model_type!r} is not known; known: {', '.join(sorted(FAMILIES))}")
    return network_of(config)


def network_of(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a network on the meta device, of a known family."""
    family = FAMILIES[config.model_type]
    whole = (
        AutoModelForSeq2SeqLM if family.has_encoder_and_decoder
        else AutoModelForCausalLM if family.decoder else AutoModelForSequenceClassification
    )  # fmt: skip
    with torch.device("meta"):
        network: PreTrainedModel = whole.from_config(config, dtype=torch.float32)
        network.tie_weights()
        return separate(network)
