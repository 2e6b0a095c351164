"""Fixed-radius local attention, a sliding window: a query sees the keys at most `radius` tokens away.

Groups of consecutive queries attend to the window that all of them together see, an overlapping view of the keys. Of
c + 2 * radius keys for every query 2 * radius + 1 are in reach, so that small groups compute fewer pairs in vain.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from lissom.attention.config import FixedRadius
from lissom.attention.dense import AttentionInputs, Part, attend, is_exporting, is_spelled_out
from lissom.attention.groups import blocks_of, count_blocks, join, real_tokens, shorter, ungrouped

QUERIES, MORE_QUERIES, EXPORTED_QUERIES = 32, 128, 64
"""Queries of a group. Small groups see fewer keys in vain; larger ones copy keys, and add up their gradients, less
often, so that they are faster in trainings and in exports (measured, docs/decisions.md)."""


def fixed_radius(inputs: AttentionInputs, radius: int, *, lse: bool) -> Part:
    """Return the attention to the keys at most `radius` tokens away; with causal attention to earlier ones alone."""
    length = inputs.length
    has_gradient = torch.is_grad_enabled() and inputs.query.requires_grad
    size = EXPORTED_QUERIES if is_spelled_out() else MORE_QUERIES if has_gradient else QUERIES
    radius = shorter(radius, length) if radius else 0
    ahead = 0 if inputs.causal else radius
    if is_exporting():
        return _in_turn(inputs, radius, ahead, shorter(size, length), lse=lse)
    blocks, width = count_blocks(length, size), radius + size + ahead
    around = (radius, blocks * size - length + ahead)
    query = blocks_of(inputs.query, size)
    key, value = (_windows(functional.pad(t, (0, 0, *around)), size, width) for t in (inputs.key, inputs.value))
    relation = _relation(radius, ahead, size, width, query.device)
    inside = _real_windows(functional.pad(real_tokens(inputs), around), size, blocks, width)
    # Groups whose windows are real in every text, most of them as a rule, share one mask.
    first, last = _whole(inside)
    parts = []
    for start, end in ((0, first), (first, last), (last, blocks)):
        if start == end:
            continue
        groups = [tensor[:, :, start:end] for tensor in (query, key, value)]
        mask, real = relation, None if start == first < last else inside[:, start:end]
        if real is not None and len(real) == 1:
            mask, real = relation & real[0, :, None], None
        tokens = min(end * size, length) - start * size
        parts.append(ungrouped(attend(inputs, *groups, relation=mask, real=real, lse=lse), tokens))
    return join(parts)


def _in_turn(inputs: AttentionInputs, radius: int, ahead: int, size: int, *, lse: bool) -> Part:
    """Return the result of all groups, computed one after the other, for a graph.

    A loop holds one group's scores, which stay in the processor's cache, where plain operations on all groups hold all
    scores, and read them from memory again and again.

    Args:
        inputs: queries, keys and values.
        radius: how far back a query sees.
        ahead: how far ahead.
        size: queries of a group.
        lse: whether the log-sum-exp is wanted.
    """
    length, device = inputs.length, inputs.query.device
    blocks, width = count_blocks(length, size), radius + size + ahead
    around = (radius, blocks * size - length + ahead)
    query = functional.pad(inputs.query.transpose(1, 2), (0, 0, 0, 0, 0, blocks * size - length))
    key, value = (functional.pad(tensor, (0, 0, *around)) for tensor in (inputs.key, inputs.value))
    inside = functional.pad(real_tokens(inputs), around)
    relation = _relation(radius, ahead, size, width, device)
    keys = torch.arange(width, device=device)

    def group(carried: Tensor, own: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        near = own[:1] + keys
        rows = (query.index_select(1, own).transpose(1, 2), key.index_select(2, near), value.index_select(2, near))
        windows = (tensor[:, :, None] for tensor in rows)
        real = inside.index_select(1, near)[:, None]
        part = attend(inputs, *windows, relation=relation, real=real, lse=lse)
        sums = () if part.lse is None else (part.lse.squeeze(2).transpose(1, 2),)
        return carried.clone(), (part.output.squeeze(2).transpose(1, 2), *sums)

    places = torch.arange(blocks * size, device=device).reshape(blocks, size)
    _, results = scan(group, torch.zeros((), device=device), places)
    output, *sums = (result.movedim(0, 1).flatten(1, 2)[:, :length].transpose(1, 2) for result in results)
    return Part(output, sums[0] if sums else None)


def _relation(radius: int, ahead: int, size: int, width: int, device: torch.device) -> Tensor:
    """Return whether a query of a group sees a key of its window, `[size, width]`."""
    distance = torch.arange(size, device=device)[:, None] + radius - torch.arange(width, device=device)
    return (distance <= radius) & (distance >= -ahead)


def _windows(padded: Tensor, size: int, width: int) -> Tensor:
    """Return the windows of `[batch, heads, n, d]` at every `size`-th token, `[batch, heads, blocks, width, d]`."""
    batch, heads, _, _ = padded.shape
    windows = padded.flatten(0, 1).unfold(1, width, size).transpose(-1, -2)  # a view
    return windows.view(batch, heads, *windows.shape[1:])


def _real_windows(real: Tensor, size: int, blocks: int, width: int) -> Tensor:
    starts = torch.arange(blocks, device=real.device)[:, None] * size
    places = (starts + torch.arange(width, device=real.device)).flatten()
    return real.index_select(1, places).reshape(real.shape[0], blocks, width)


def _whole(inside: Tensor) -> tuple[int, int]:
    """Return the first run of groups whose windows are real in every text, `(first, end)`; both 0 if there is none.

    Args:
        inside: which tokens of windows are real, `[batch or 1, blocks, width]`.
    """
    whole = inside.all(-1).all(0).tolist()
    if True not in whole:
        return 0, 0
    first = whole.index(True)
    return first, whole.index(False, first) if False in whole[first:] else len(whole)


def counts(params: FixedRadius, queries: Tensor, length: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[1, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    return ((queries[:, None] - keys).abs() <= params.radius).long()[None]


def pairs(params: FixedRadius, length: int, *, causal: bool) -> int:
    """Return the number of pairs that are attended."""
    radius = min(params.radius, length - 1)
    both = length * (2 * radius + 1) - radius * (radius + 1)
    return (both + length) // 2 if causal else both
