"""The Sparse Transformer's factorised patterns (Child et al. 2019, arXiv:1904.10509, section 4.3).

`strided` is a window of one stride with the keys at multiples of it; `fixed` is the query's own block with the last
keys of all blocks. Both parts are merged by their softmax denominators; a key of both counts once.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lissom.attention import block_strided as strided
from lissom.attention.block_local import block_local
from lissom.attention.config import SparseTransformer
from lissom.attention.dense import AttentionInputs, Part, attend, merge
from lissom.attention.fixed_radius import fixed_radius
from lissom.attention.groups import blocks_of, count_blocks, real_blocks, real_tokens, ungrouped


def sparse_transformer(inputs: AttentionInputs, params: SparseTransformer, *, lse: bool) -> Part:
    """Return the attention of one factor, or of both."""
    stride, part = params.stride, params.part
    if params.form == "strided":
        if part == "local":
            return fixed_radius(inputs, stride, lse=lse)
        if part == "distant":
            return strided.block_strided(inputs, stride, lse=lse)
        # The window holds the query itself and the keys one stride away.
        return merge([
            fixed_radius(inputs, stride, lse=True),
            strided.block_strided(inputs, stride, apart=2, lse=True),
        ])  # fmt: skip
    if part == "local":
        return block_local(inputs, stride, lse=lse)
    own = block_local(inputs, stride, lse=True) if part == "both" else _own_summary(inputs, params)
    return merge([own, _other_summaries(inputs, params)])


def _other_summaries(inputs: AttentionInputs, params: SparseTransformer) -> Part:
    """Return the attention to the last keys of all other blocks, with causal attention of all earlier ones."""
    stride, length = params.stride, inputs.length
    blocks = count_blocks(length, stride)
    # Every group of queries has the same keys, which are repeated as a view.
    key, value = (_summary(t, params).flatten(2, 3)[:, :, None].expand(-1, -1, blocks, -1, -1)
                  for t in (inputs.key, inputs.value))  # fmt: skip
    real = functional.pad(real_tokens(inputs), (0, blocks * stride - length))
    real = real.reshape(-1, blocks, stride)[:, :, stride - params.summary :].flatten(1)
    own = torch.arange(blocks, device=real.device)
    of_key = own.repeat_interleave(params.summary)
    seen = of_key < own[:, None] if inputs.causal else of_key != own[:, None]
    part = attend(inputs, blocks_of(inputs.query, stride), key, value, real=real[:, None] & seen, lse=True)
    return ungrouped(part, length)


def _own_summary(inputs: AttentionInputs, params: SparseTransformer) -> Part:
    """Return the attention to the last keys of the query's own block."""
    stride, start = params.stride, params.stride - params.summary
    relation = None
    if inputs.causal:
        places = torch.arange(stride, device=inputs.query.device)
        relation = places[:, None] >= places[start:]
    real = real_blocks(inputs, stride)
    part = attend(
        inputs, blocks_of(inputs.query, stride), _summary(inputs.key, params), _summary(inputs.value, params),
        relation=relation, real=None if real is None else real[:, :, start:], lse=True,
    )  # fmt: skip
    return ungrouped(part, inputs.length)


def _summary(tensor: Tensor, params: SparseTransformer) -> Tensor:
    """Return the last tokens of every block, `[batch, heads, blocks, summary, d]`."""
    return blocks_of(tensor, params.stride)[:, :, :, params.stride - params.summary :]


def counts(params: SparseTransformer, queries: Tensor, length: int) -> Tensor:
    """Return how often queries at some places see every key without causality, `[1, queries, n]`."""
    keys = torch.arange(length, device=queries.device)
    distance = queries[:, None] - keys
    if params.form == "strided":
        local, distant = distance.abs() <= params.stride, distance % params.stride == 0
    else:
        local = queries[:, None] // params.stride == keys // params.stride
        distant = (keys % params.stride >= params.stride - params.summary).expand_as(local)
    seen = {"local": local, "distant": distant, "both": local | distant}[params.part]
    return seen.long()[None]


def pairs(params: SparseTransformer, length: int, *, causal: bool) -> int:
    """Return the number of pairs that are attended, counted query by query."""
    total, stride = 0, params.stride
    for query in range(length):
        last = query if causal else length - 1
        if params.form == "strided":
            local = min(query, stride) + min(last - query, stride) + 1
            distant = query // stride + (last - query) // stride + 1
            common = (query >= stride) + (last - query >= stride) + 1
        else:
            start = query // stride * stride
            end = min(start + stride - 1, last)
            local = end - start + 1
            distant = _summaries(params, last)
            common = _summaries(params, end) - _summaries(params, start - 1)
        total += {"local": local, "distant": distant, "both": local + distant - common}[params.part]
    return total


def _summaries(params: SparseTransformer, last: int) -> int:
    """Return how many of the tokens up to `last` summarise a block."""
    whole, rest = divmod(last + 1, params.stride)
    return whole * params.summary + max(0, rest - (params.stride - params.summary))
