"""Block-strided attention: a query sees the keys at multiples of the stride from it.

The tokens with the same remainder modulo the stride are a group, a transposed view of the sequence: `stride` dense
attentions of n / stride tokens. Blocks of size n / stride of the sequence in that order have the same pairs.
"""

import torch
from torch import Tensor

from lissom.attention.config import BlockStrided
from lissom.attention.dense import AttentionInputs, Part, attend
from lissom.attention.groups import blocks_of, real_blocks, shorter


def block_strided(inputs: AttentionInputs, stride: int, *, apart: int = 0, lse: bool) -> Part:
    """Return the attention to keys at multiples of `stride`, at least `apart` strides away."""
    stride = shorter(stride, inputs.length)
    query, key, value = (blocks_of(t, stride).transpose(2, 3) for t in (inputs.query, inputs.key, inputs.value))
    real, relation = real_blocks(inputs, stride), None
    if apart:
        places = torch.arange(query.shape[3], device=query.device)
        distance = places[:, None] - places
        relation = distance >= apart if inputs.causal else distance.abs() >= apart
    part = attend(
        inputs, query, key, value, relation=relation, real=None if real is None else real.transpose(1, 2),
        causal=inputs.causal and not apart, lse=lse,
    )  # fmt: skip
    return of_remainders(part, inputs.length)


def of_remainders(part: Part, length: int) -> Part:
    """Return the result of groups by remainder, `[batch, heads, stride, tokens, d]`, in the order of the sequence."""
    output = part.output.transpose(2, 3).flatten(2, 3)[:, :, :length]
    return Part(output, None if part.lse is None else part.lse.transpose(2, 3).flatten(2, 3)[:, :, :length])


def counts(params: BlockStrided, queries: Tensor, length: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[1, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    return ((queries[:, None] - keys) % params.stride == 0).long()[None]


def pairs(params: BlockStrided, length: int, *, causal: bool) -> int:
    """Return the number of pairs that are attended."""
    rows, longer = divmod(length, params.stride)
    sizes = [(rows + 1, longer), (rows, params.stride - longer)]
    return sum(number * (size * (size + 1) // 2 if causal else size * size) for size, number in sizes)
