"""Attention patterns in networks: the attention function that honours them, and what a module knows of them.

`UseAttention` tells an attention module its patterns and the numbers of its heads. The function serves training and
evaluation; exports (`lissom.export.attention`) take the same efficient forms as plain operations of a graph. Sliding
windows that a family has of its own are fixed radii here, so that they cost no n x n memory either.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lissom.attention.config import FixedRadius, Pattern
from lissom.attention.dense import AttentionInputs
from lissom.attention.run import attention, cached_attention
from lissom.errors import InputError
from lissom.models.families import FAMILIES
from lissom.models.sites import blocks_of, window_of

NAME = "lissom_patterns"


def set_patterns(module: nn.Module, patterns: Sequence[Pattern], heads: int) -> None:
    """Tell an attention module its patterns, and the numbers of its heads if it does not know them."""
    module.attention_patterns = tuple(patterns)  # type: ignore[assignment]
    if not hasattr(module, "head_numbers"):
        module.head_numbers = tuple(range(heads))  # type: ignore[assignment]
        module.all_heads = heads  # type: ignore[assignment]


def keep_head_numbers(module: nn.Module, kept: Sequence[int]) -> None:
    """Keep the numbers of some heads of an attention module, by their places; without patterns nothing is done."""
    if hasattr(module, "head_numbers"):
        numbers: Any = module.head_numbers
        module.head_numbers = tuple(numbers[place] for place in kept)  # type: ignore[assignment]


def keep_share_of_heads(module: nn.Module, place: int, size: int) -> None:
    """Keep the numbers of the heads of one of `size` processes."""
    heads = len(getattr(module, "head_numbers", ()))
    keep_head_numbers(module, range(place * heads // size, (place + 1) * heads // size))


def patterns_of(module: nn.Module, window: int | None = None) -> tuple[Pattern, ...]:
    """Return the patterns of an attention module; without any, that of its sliding window, if it has one.

    Args:
        module: the attention module.
        window: a query sees the keys that are less than so many tokens away.
    """
    patterns: tuple[Pattern, ...] = getattr(module, "attention_patterns", ())
    if patterns or window is None:
        return patterns
    return (FixedRadius(pattern="fixed_radius", radius=window - 1),)


def honour_windows(network: PreTrainedModel) -> None:
    """Let the sliding windows that a network has of its own cost no n x n memory either, as patterns do not."""
    if has_windows(network):
        network.set_attn_implementation(NAME)


def has_windows(network: PreTrainedModel) -> bool:
    """Return whether any block of a network has a sliding window of its own, which an attention function computes."""
    family = FAMILIES[network.config.model_type]
    if not family.attention_function or family.has_encoder_and_decoder or not family.stacks:
        return False
    return any(window_of(network, block) is not None for block in range(len(blocks_of(network))))


def has_patterns(network: PreTrainedModel) -> bool:
    """Return whether any attention of a network has a pattern."""
    return any(patterns_of(module) for module in network.modules())


def inputs_for(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> AttentionInputs:
    """Return what patterns get, from what an attention function of transformers gets.

    Args:
        module: the attention module.
        query: `[batch, heads, n, d_h]`.
        key: the same, or with fewer heads (grouped-query attention), as `value`.
        value: the same.
        mask: 1 or true for tokens that are no padding, `[batch, n]`; None if all are real.
        scaling: factor of the scores; None is that of the width.
        dropout: share of the attention weights that are dropped.
        softcap: bound of the scores.
    """
    heads = query.shape[1]
    # Rotary positions leave queries and keys in float32 under autocast, which only torch's own function casts.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if key.shape[1] != heads:  # heads that share keys and values
        key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    numbers: tuple[int, ...] = getattr(module, "head_numbers", tuple(range(heads)))
    assert len(numbers) == heads, "pruning and sharding keep the numbers of heads"
    return AttentionInputs(
        query, key, value, scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        real=None if mask is None else mask.bool(), causal=bool(getattr(module, "is_causal", False)), dropout=dropout,
        softcap=softcap, heads=numbers, all_heads=int(getattr(module, "all_heads", heads)),
    )  # fmt: skip


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if attention_mask is not None:
        attention_mask = attention_mask[:, -key.shape[2] :]  # the cache of a window has its last keys alone
    inputs = inputs_for(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap
    )  # fmt: skip
    patterns = patterns_of(module, sliding_window)
    if query.shape[2] == key.shape[2]:
        return attention(inputs, patterns).transpose(1, 2).contiguous(), None
    if sliding_window is not None and patterns_of(module):
        raise InputError(
            "attention: the cache of this family keeps the keys of its own window alone, which the pattern needs more "
            "of; read texts whole (use_cache=False)"
        )
    return cached_attention(inputs, patterns).transpose(1, 2).contiguous(), None


def _mask(*_: Any, attention_mask: Tensor | None, **__: Any) -> Tensor | None:
    """Return the padding mask `[batch, n]`, which patterns take directly; None if no token is padding."""
    if attention_mask is None or torch.compiler.is_exporting():
        return attention_mask
    mask = attention_mask.bool()
    return None if bool(mask.all()) else mask


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
