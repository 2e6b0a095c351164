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
    """Return the attention of one branch; tokens that do not take part are `missing`."""
    segment, length = shorter(segment, inputs.length), inputs.length
    tokens = count_blocks(segment, dilation)  # of a segment, those that take part
    more = tokens * dilation - segment
    device = inputs.query.device
    heads = torch.arange(len(inputs.heads), device=device)
    offsets = torch.tensor([_offset(head, dilation, params, inputs.all_heads) for head in inputs.heads], device=device)

    def sparse(tensor: Tensor) -> Tensor:
        """Return what takes part, `[batch, heads, segments, tokens, d]`."""
        spread = functional.pad(blocks_of(tensor, segment), (0, 0, 0, more))
        if dilation == 1:
            return spread
        spread = spread.reshape(*spread.shape[:3], tokens, dilation, -1)
        return spread.permute(1, 4, 0, 2, 3, 5)[heads, offsets].transpose(0, 1)

    real = real_blocks(inputs, segment)
    if real is None and dilation > 1 and not inputs.causal:
        real = torch.ones(1, count_blocks(length, segment), segment, dtype=torch.bool, device=device)
    if real is not None and dilation > 1:
        real = functional.pad(real, (0, more)).reshape(*real.shape[:2], tokens, dilation)
        real = real.permute(3, 0, 1, 2)[offsets].transpose(0, 1)
    part = attend(
        inputs, sparse(inputs.query), sparse(inputs.key), sparse(inputs.value), real=real, causal=inputs.causal,
        lse=True,
    )  # fmt: skip
    output, sums = part.output, part.lse
    assert sums is not None
    if dilation > 1:
        # All tokens get the output of the one that takes part, and all others no weight when branches are merged.
        output = output.unsqueeze(4).expand(-1, -1, -1, -1, dilation, -1).flatten(3, 4)[:, :, :, :segment]
        takes_part = offsets[:, None] == torch.arange(dilation, device=device)
        sums = torch.where(takes_part[:, None, None], sums.unsqueeze(4), missing(torch.float32))
        sums = sums.flatten(3, 4)[:, :, :, :segment]
    return Part(output.flatten(2, 3)[:, :, :length], sums.flatten(2, 3)[:, :, :length])


def _offset(head: int, dilation: int, params: LongNet, all_heads: int) -> int:
    """Return the first token of a head in a segment."""
    if params.offsets == "alternating":
        return head % dilation
    return min(head // max(1, -(-all_heads // dilation)), dilation - 1)


def counts(params: LongNet, queries: Tensor, length: int, heads: Sequence[int], all_heads: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[heads, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    total = torch.zeros(len(heads), len(queries), length, dtype=torch.long, device=queries.device)
    for segment, dilation in zip(params.segments, params.dilations, strict=True):
        size = min(segment, length)
        same = queries[:, None] // size == keys // size
        for row, head in enumerate(heads):
            offset = _offset(head, dilation, params, all_heads)
            taken = [(places % size) % dilation == offset for places in (queries, keys)]
            total[row] += same & taken[0][:, None] & taken[1]
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
