"""Architectures of GGUF files: which one holds a family, and how its tensors differ from transformers'.

llama.cpp names an architecture by a string, and reads its tensors and settings by that name. One of them, `deci`, is a
Llama whose blocks may have different numbers of heads and neurons.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.layers import computes_with_integers
from lissom.models.patterned import has_patterns
from lissom.models.sites import attention_sites, blocks_of, ffn_sites, head_groups, head_size


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp holds a family."""

    name: str
    uneven: str | None = None
    """Architecture for blocks of different widths; without one, they are padded with zeros."""
    interleaved: bool = False
    """Whether rotary positions turn neighbouring entries of a head, where transformers turns its two halves."""
    norm_offset: float = 0.0
    """What is added to the weights of all norms."""
    period: int | None = None
    """Of so many blocks, one sees the whole text and the others a window; None if llama.cpp knows no window, which then
    limits the context."""
    global_first: bool = False
    """Whether the first block of a period sees the whole text; else the last one does."""
    all_heads: bool = False
    """Whether the heads must be as wide together as the hidden size."""
    own_scale: bool = False
    """Whether the config tells by what products of queries and keys are divided, in place of sqrt(d_h)."""
    encoder: bool = False
    """Whether it is an encoder without a head, whose answer is an embedding of the text."""


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", uneven="deci", interleaved=True),
    "mistral": Architecture("llama", uneven="deci", interleaved=True),
    "qwen2": Architecture("qwen2", all_heads=True),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", norm_offset=1.0, period=2, own_scale=True),
    "gemma3_text": Architecture("gemma3", norm_offset=1.0, period=6, own_scale=True),
    "gpt2": Architecture("gpt2", all_heads=True),
    "bert": Architecture("bert", all_heads=True, encoder=True),
    "modernbert": Architecture("modern-bert", all_heads=True, encoder=True, period=3, global_first=True),
}
"""By model type of transformers."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of a network's blocks."""

    head_size: int
    group: int
    """Query heads per key/value head."""
    groups: tuple[int, ...]
    """Key/value heads of every block."""
    neurons: tuple[int, ...]
    """Feed-forward neurons of every block."""

    @property
    def is_even(self) -> bool:
        """Return whether all blocks have the same sizes."""
        return len(set(self.groups)) == len(set(self.neurons)) == 1


def shapes_of(network: PreTrainedModel) -> Shapes:
    """Return the sizes of a network's blocks."""
    width = head_size(network)
    return Shapes(
        width,
        head_groups(network),
        tuple(network.get_submodule(site.key).out_features // width for site in attention_sites(network)),
        tuple(network.get_submodule(site.inputs[0]).out_features for site in ffn_sites(network)),
    )


def target_shapes(shapes: Shapes, architecture: Architecture, width: int) -> Shapes:
    """Return the sizes of the blocks in the file, which `padded` reaches.

    Args:
        shapes: sizes of the network's blocks.
        architecture: how llama.cpp holds it.
        width: the hidden size.

    Raises:
        InputError: llama.cpp divides the hidden size by the number of heads, and there are more heads than fit.
    """
    count = len(shapes.neurons)
    if architecture.all_heads:
        unit = shapes.head_size * shapes.group
        if width % unit or max(shapes.groups) * unit > width:
            raise InputError(
                f"export.formats gguf: a {architecture.name} of llama.cpp has heads of hidden size / heads; here there "
                f"are {width} hidden channels and up to {max(shapes.groups) * shapes.group} heads of "
                f"{shapes.head_size}; keep a multiple of {unit} channels (prune.multiple), and no more heads than fit"
            )
        shapes = replace(shapes, groups=(width // shapes.head_size // shapes.group,) * count)
    if shapes.is_even or architecture.uneven is not None:
        return shapes
    return replace(shapes, groups=(max(shapes.groups),) * count, neurons=(max(shapes.neurons),) * count)


def architecture_of(network: PreTrainedModel) -> Architecture:
    """Return the architecture of a network.

    Raises:
        InputError: llama.cpp has none for it, or not for what was made of it.
    """
    model_type = network.config.model_type
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"export.formats gguf: models of type {model_type!r} are not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    if computes_with_integers(network):
        raise InputError(
            "export.formats gguf: activations are quantised to int8, which a GGUF file cannot express; set "
            "quantize.method: gguf or none"
        )
    if has_patterns(network):
        raise InputError(
            "export.formats gguf: the model has attention patterns, which a GGUF file cannot express; take "
            "export.formats: [onnx], or the model without patterns"
        )
    architecture = ARCHITECTURES[model_type]
    _check_windows(network, architecture)
    table = network.get_submodule(family_of(network).word_table)
    scale = getattr(table, "scalar_embed_scale", None)
    if scale is not None and round(scale**2) != network.config.hidden_size:
        raise InputError(
            f"export.formats gguf: llama.cpp multiplies the word vectors of a {architecture.name} with the root of the "
            "hidden size, which pruning has changed; take another method than prune.method: hidden"
        )
    return architecture


def _check_windows(network: PreTrainedModel, architecture: Architecture) -> None:
    """Refuse a network whose local and global blocks no longer alternate as llama.cpp assumes."""
    config, period = network.config, architecture.period
    if period is None:
        return
    place = 0 if architecture.global_first else period - 1
    expected = [
        "full_attention" if number % period == place else "sliding_attention"
        for number in range(len(blocks_of(network)))
    ]
    if list(config.layer_types) != expected:
        kinds = ", ".join(kind.removesuffix("_attention") for kind in config.layer_types)
        raise InputError(
            f"export.formats gguf: llama.cpp takes the {'first' if architecture.global_first else 'last'} of every "
            f"{period} blocks of {architecture.name} for a global one; here the blocks are {kinds}; keep blocks in "
            f"whole groups of {period}"
        )


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Return the rows of a query or key projection `[heads * d_h, ...]` in the order of neighbouring rotations."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def padded(weight: Tensor, rows: int, axis: int = 0) -> Tensor:
    """Return a tensor with zeros behind its entries along an axis, up to `rows` of them."""
    missing = rows - weight.shape[axis]
    if missing == 0:
        return weight
    shape = list(weight.shape)
    shape[axis] = missing
    return torch.cat([weight, weight.new_zeros(shape)], dim=axis)
