"""Where the hidden channels of a network are: the axes of its parameters that belong to its hidden states.

They are found by building the network's class once more, without memory, at twice the width: what has doubled is an
axis of channels, except the heads' side of an attention's projections, whose width is derived from the hidden size in
some families, and the norms of queries and keys. So equal numbers (heads together are as wide as the hidden states,
mostly) cannot be confused, and no table of every module of every family is needed.
"""

import copy
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.fused import separate
from lissom.models.sites import attention_sites, first_blocks

_MULTIPLIES_BY_ONE_MORE = ("Gemma2RMSNorm", "Gemma3RMSNorm")
"""Norms that multiply by 1 + weight."""


def channel_axes(network: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return by parameter the axes that are hidden channels; parameters without such an axis are left out.

    Raises:
        InputError: the network has no blocks, or a parameter that its class does not have, since a layer was replaced.
    """
    first_blocks(network)  # says what to do about a model without blocks
    base, wide = _built(network, 1), _built(network, 2)
    known = {_anywhere(name): _doubled(shape, wide[name]) for name, shape in base.items()}
    of_heads = _axes_of_heads(network)
    axes: dict[str, tuple[int, ...]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        place = _anywhere(name)
        if place not in known:
            raise InputError(
                f"{name} is not a weight of a plain {network.config.model_type}: remove hidden channels before its "
                "layers are replaced or added"
            )
        found = tuple(axis for axis in known[place] if (name, axis) not in of_heads and axis < parameter.ndim)
        if found:
            axes[name] = found
    return axes


def root_mean_square_norms(network: PreTrainedModel) -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Return by path the norms that divide by the root of the mean square; how to multiply what their weights do."""
    norms: dict[str, Callable[[Tensor, float], Tensor]] = {}
    for path, module in network.named_modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm") or kind == "T5LayerNorm":
            norms[path] = partial(_multiplied, one_more=kind in _MULTIPLIES_BY_ONE_MORE)
    return norms


def widths_of_embeddings_and_head(config: PreTrainedConfig) -> list[str]:
    """Return further names in a config for the width of hidden states, in families that may have other ones there."""
    names = ("embedding_size", "pooler_hidden_size")
    return [name for name in names if getattr(config, name, None) == config.hidden_size]


def _multiplied(weight: Tensor, factor: float, *, one_more: bool) -> Tensor:
    return (weight + 1) * factor - 1 if one_more else weight * factor


def _built(network: PreTrainedModel, times: int) -> dict[str, torch.Size]:
    """Return the shapes of all parameters of the network's class, with hidden states that are some times as wide."""
    config, width = copy.deepcopy(network.config), network.config.hidden_size
    same = widths_of_embeddings_and_head(config)
    for stack in family_of(network).stacks:
        if getattr(config, stack.config_neurons, None) is None:  # derived from the width
            setattr(config, stack.config_neurons, 4 * width)
    # Any width that the heads divide would do; the size of the embeddings must not equal it by chance.
    config.hidden_size = times * 2 * config.num_attention_heads * (1 + getattr(config, "embedding_size", width))
    for name in same:
        setattr(config, name, config.hidden_size)
    with torch.device("meta"):
        built = separate(type(network)(config))
    return {name: parameter.shape for name, parameter in built.named_parameters(remove_duplicate=False)}


def _doubled(shape: torch.Size, wide: torch.Size) -> tuple[int, ...]:
    return tuple(axis for axis, (size, other) in enumerate(zip(shape, wide, strict=True)) if other != size)


def _anywhere(name: str) -> str:
    """Return a parameter's name without the number of its block, since blocks may be gone."""
    return re.sub(r"\.\d+\.", ".*.", name)


def _axes_of_heads(network: PreTrainedModel) -> set[tuple[str, int]]:
    """Return the axes that belong to heads: rows of what makes queries, keys and values, columns of what joins them."""
    axes: set[tuple[str, int]] = set()
    for site in attention_sites(network):
        for path in (site.query, site.key, site.value, *site.positions, *site.norms):
            axes |= {(f"{path}.weight", 0), (f"{path}.bias", 0)}
        axes.add((f"{site.output}.weight", 1))
    return axes
