"""Block-local attention: a query sees the keys of its own block of the sequence.

Blocks are a view of the sequence, so that the cost is n * size pairs. With blocks of the whole length it is dense
attention.
"""

import torch
from torch import Tensor

from lissom.attention.config import BlockLocal
from lissom.attention.dense import AttentionInputs, Part, attend, is_exporting
from lissom.attention.groups import blocks_of, join, real_blocks, shorter, ungrouped


def block_local(inputs: AttentionInputs, size: int, *, lse: bool) -> Part:
    """Return the attention within blocks of `size` tokens."""
    length, size = inputs.length, shorter(size, inputs.length)
    tensors = (inputs.query, inputs.key, inputs.value)
    if inputs.real is not None or is_exporting():
        groups = [blocks_of(tensor, size) for tensor in tensors]
        real = real_blocks(inputs, size)
        return ungrouped(attend(inputs, *groups, real=real, causal=inputs.causal, lse=lse), length)
    # Without padding only the last block can be shorter, and no mask is needed.
    whole, parts = length // size * size, []
    for start, end, block in ((0, whole, size), (whole, length, length - whole)):
        if end > start:
            groups = [blocks_of(tensor[:, :, start:end], block) for tensor in tensors]
            parts.append(ungrouped(attend(inputs, *groups, causal=inputs.causal, lse=lse), end - start))
    return join(parts)


def counts(params: BlockLocal, queries: Tensor, length: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[1, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    return (queries[:, None] // params.size == keys // params.size).long()[None]


def pairs(params: BlockLocal, length: int, *, causal: bool) -> int:
    """Return the number of pairs that are attended."""
    whole, rest = divmod(length, params.size)
    return whole * _within(params.size, causal=causal) + _within(rest, causal=causal)


def _within(size: int, *, causal: bool) -> int:
    return size * (size + 1) // 2 if causal else size * size
