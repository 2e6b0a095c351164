"""Fixed-radius local attention, a sliding window: a query sees the keys at most `radius` tokens away.

Groups of consecutive queries attend to the window that all of them together see, an overlapping view of the keys. Of
c + 2 * radius keys for every query 2 * radius + 1 are in reach, so that small groups compute fewer pairs in vain.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lissom.attention.config import FixedRadius
from lissom.attention.dense import AttentionInputs, Part, attend, is_exporting, is_spelled_out
from lissom.attention.groups import blocks_of, count_blocks, join, real_tokens, shorter, ungrouped

QUERIES, MORE_QUERIES = 32, 128
"""Queries of a group. Small groups see fewer keys in vain; larger ones copy keys, and add up their gradients, less
often, so that they are faster in exports and in trainings (measured, docs/attention.md)."""


def fixed_radius(inputs: AttentionInputs, radius: int, *, lse: bool) -> Part:
    """Return the attention to the keys at most `radius` tokens away; with causal attention to earlier ones alone."""
    length = inputs.length
    has_gradient = torch.is_grad_enabled() and inputs.query.requires_grad
    size = MORE_QUERIES if has_gradient or is_spelled_out() else QUERIES
    radius = shorter(radius, inputs.length) if radius else 0
    ahead = 0 if inputs.causal else radius
    blocks, width = count_blocks(length, size), radius + size + ahead
    around = (radius, blocks * size - length + ahead)
    query = blocks_of(inputs.query, size)
    key, value = (_windows(functional.pad(t, (0, 0, *around)), size, blocks, width) for t in (inputs.key, inputs.value))
    device = query.device
    distance = torch.arange(size, device=device)[:, None] + radius - torch.arange(width, device=device)
    relation = (distance <= radius) & (distance >= -ahead)
    inside = functional.pad(real_tokens(inputs), around)
    inside = _real_windows(inside, size, blocks, width)
    if inputs.real is not None or is_exporting():
        return ungrouped(attend(inputs, query, key, value, relation=relation, real=inside, lse=lse), length)
    # All groups but those at the ends have the same relation, which is read from the cache then.
    first = min(count_blocks(radius, size), blocks)
    last = max(first, (length - ahead) // size)
    sizes = [first, last - first, blocks - last]
    parts, start = [], 0
    for groups in zip(*(torch.split(tensor, sizes, 2) for tensor in (query, key, value)), strict=True):
        end = start + groups[0].shape[2]
        if end > start:
            mask = relation if start == first < last else relation & inside[0, start:end, None]
            tokens = min(end * size, length) - start * size
            parts.append(ungrouped(attend(inputs, *groups, relation=mask, lse=lse), tokens))
        start = end
    return join(parts)


def _windows(padded: Tensor, size: int, blocks: int, width: int) -> Tensor:
    """Return the windows of `[batch, heads, n, d]` at every `size`-th token, `[batch, heads, blocks, width, d]`."""
    batch, heads, _, channels = padded.shape
    if is_exporting():
        places = _places(size, blocks, width, padded.device).flatten()
        return padded.index_select(2, places).reshape(batch, heads, blocks, width, channels)
    windows = padded.flatten(0, 1).unfold(1, width, size).transpose(-1, -2)  # a view
    return windows.view(batch, heads, *windows.shape[1:])


def _real_windows(real: Tensor, size: int, blocks: int, width: int) -> Tensor:
    places = _places(size, blocks, width, real.device).flatten()
    return real.index_select(1, places).reshape(real.shape[0], blocks, width)


def _places(size: int, blocks: int, width: int, device: torch.device) -> Tensor:
    return torch.arange(blocks, device=device)[:, None] * size + torch.arange(width, device=device)


def counts(params: FixedRadius, queries: Tensor, length: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[1, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    return ((queries[:, None] - keys).abs() <= params.radius).long()[None]


def pairs(params: FixedRadius, length: int, *, causal: bool) -> int:
    """Return the number of pairs that are attended."""
    radius = min(params.radius, length - 1)
    both = length * (2 * radius + 1) - radius * (radius + 1)
    return (both + length) // 2 if causal else both
