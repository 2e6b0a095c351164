"""LongNet's dilated attention: near keys all, far keys ever fewer (Ding et al. 2023, arXiv:2307.02486, section 3).

A branch cuts the sequence into segments, takes every dilation-th token of each, and attends within them. Branches are
merged by their softmax denominators: one softmax over the keys of all branches, a key of several counted as often. That
is the oracle of the tests, forwards and backwards.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from lissom.attention.config import LongNet
from lissom.attention.dense import AttentionInputs, Part, attend, merge, missing
from lissom.attention.groups import blocks_of, count_blocks, real_blocks, shorter


def longnet(inputs: AttentionInputs, params: LongNet) -> Part:
    """Return the attention of all branches together."""
    # Branches take every so-many-th token of some heads, which are close together in memory then.
    query, key, value = (tensor.contiguous() for tensor in (inputs.query, inputs.key, inputs.value))
    inputs = replace(inputs, query=query, key=key, value=value)
    branches = zip(params.segments, params.dilations, strict=True)
    parts = [_branch(inputs, segment, dilation, params) for segment, dilation in branches]
    return merge(parts, detach_weights=params.detach_weights)


def _branch(inputs: AttentionInputs, segment: int, dilation: int, params: LongNet) -> Part:
    segment = shorter(segment, inputs.length)
    by_offset: dict[int, list[int]] = {}
    for place, head in enumerate(inputs.heads):
        by_offset.setdefault(_offset(head, dilation, params, inputs.all_heads), []).append(place)
    parts = [_heads(inputs, heads, segment, dilation, offset) for offset, heads in by_offset.items()]
    if len(parts) == 1:
        return parts[0]
    order = [place for heads in by_offset.values() for place in heads]
    back = torch.tensor([order.index(place) for place in range(len(order))], device=inputs.query.device)
    sums = [part.lse for part in parts if part.lse is not None]
    return Part(torch.cat([part.output for part in parts], 1)[:, back], torch.cat(sums, 1)[:, back])


def _offset(head: int, dilation: int, params: LongNet, all_heads: int) -> int:
    """Return the first token of a head in a segment."""
    if params.offsets == "alternating":
        return head % dilation
    return min(head // max(1, -(-all_heads // dilation)), dilation - 1)


def _heads(inputs: AttentionInputs, heads: list[int], segment: int, dilation: int, offset: int) -> Part:
    """Return a branch for the heads that start at the same token; tokens that do not take part are `missing`."""
    taken = heads if len(heads) < len(inputs.heads) else slice(None)
    tokens = count_blocks(segment, dilation)  # of a segment, those that take part
    more = tokens * dilation - segment

    def sparse(tensor: Tensor) -> Tensor:
        spread = functional.pad(blocks_of(tensor[:, taken], segment), (0, 0, 0, more))
        return spread.reshape(*spread.shape[:3], tokens, dilation, -1)[:, :, :, :, offset]

    real = real_blocks(inputs, segment)
    if real is None and (dilation > 1):
        blocks = count_blocks(inputs.length, segment)
        real = torch.ones(1, blocks, segment, dtype=torch.bool, device=inputs.query.device)
    if real is not None:
        real = functional.pad(real, (0, more)).reshape(*real.shape[:2], tokens, dilation)[..., offset]
    part = attend(
        inputs, sparse(inputs.query), sparse(inputs.key), sparse(inputs.value), real=real, causal=inputs.causal,
        lse=True,
    )  # fmt: skip
    assert part.lse is not None
    around = (offset, dilation - 1 - offset)
    output = functional.pad(part.output.unsqueeze(4), (0, 0, *around)).flatten(3, 4)[:, :, :, :segment]
    sums = functional.pad(part.lse.unsqueeze(4), around, value=missing(torch.float32)).flatten(3, 4)[:, :, :, :segment]
    length = inputs.length
    return Part(output.flatten(2, 3)[:, :, :length], sums.flatten(2, 3)[:, :, :length])


def counts(params: LongNet, length: int, heads: Sequence[int], all_heads: int) -> Tensor:
    """Return how often a query sees a key without causality, `[heads, n, n]`."""
    places, total = torch.arange(length), torch.zeros(len(heads), length, length, dtype=torch.long)
    for segment, dilation in zip(params.segments, params.dilations, strict=True):
        size = min(segment, length)
        same = (places // size)[:, None] == places // size
        for row, head in enumerate(heads):
            taken = (places % size) % dilation == _offset(head, dilation, params, all_heads)
            total[row] += same & taken & taken[:, None]
    return total


def pairs(params: LongNet, length: int, *, causal: bool, head: int = 0, all_heads: int = 1) -> int:
    """Return the number of pairs that a head attends, those of several branches counted for each."""
    total = 0
    for segment, dilation in zip(params.segments, params.dilations, strict=True):
        size, offset = min(segment, length), _offset(head, dilation, params, all_heads)
        whole, rest = divmod(length, size)
        for tokens, number in ((size, whole), (rest, 1)):
            taken = max(0, -(-(tokens - offset) // dilation))
            total += number * (taken * (taken + 1) // 2 if causal else taken * taken)
    return total
