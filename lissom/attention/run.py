"""Attention with patterns: dispatch to the pattern, global tokens, and heads that differ.

Source of the patterns: Child et al. 2019 (arXiv:1904.10509), Beltagy et al. 2020 (arXiv:2004.05150; windows and global
tokens) and Ding et al. 2023 (arXiv:2307.02486).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from lissom.attention import block_local, block_strided, fixed_radius, longnet, sparse_transformer
from lissom.attention.config import BlockLocal, BlockStrided, FixedRadius, LongNet, Pattern, SparseTransformer
from lissom.attention.dense import AttentionInputs, Part, attend, is_exporting, is_spelled_out, merge, missing
from lissom.attention.groups import real_tokens

DENSE_BELOW = 256
"""Up to so many tokens one dense attention with a mask is as fast as any pattern (measured, docs/attention.md)."""

KEPT_BY_GLIBC = 32 * 2**20
"""Bytes of the largest memory that glibc keeps when it is freed; larger ones are paid for page by page, every time."""


def attention(inputs: AttentionInputs, patterns: Sequence[Pattern]) -> Tensor:
    """Return the attention of every head by its pattern; heads without one see all keys.

    Memory and time grow with the pairs that are attended; no tensor of n x n is allocated above `DENSE_BELOW` tokens,
    unless a window reaches both ends of the text.

    Args:
        inputs: queries, keys and values of all heads.
        patterns: patterns of different heads, or one of all.

    Returns:
        `[batch, heads, n, d_v]`, 0 for the queries that are padding.
    """
    output = _by_head(inputs, patterns)
    return output if inputs.real is None else output * inputs.real[:, None, :, None]


def cached_attention(inputs: AttentionInputs, patterns: Sequence[Pattern]) -> Tensor:
    """Return the attention of the last queries of a sequence to all its keys, as when a text is continued.

    Args:
        inputs: queries `[batch, heads, n, d_h]` and more keys and values, `[batch, heads, m, d_h]`; causal.
        patterns: as for `attention`.
    """
    length, device = inputs.key.shape[2], inputs.query.device
    queries = torch.arange(length - inputs.length, length, device=device)
    count = counts(patterns, queries, length, inputs.heads, inputs.all_heads, causal=True)
    if inputs.real is not None:
        count = count * inputs.real[:, None, None]
    scores = (inputs.query * inputs.scale) @ inputs.key.transpose(-1, -2)
    if inputs.softcap is not None:
        scores = inputs.softcap * (scores / inputs.softcap).tanh()
    bias = torch.where(count > 0, count.log(), missing(scores.dtype)).to(scores.dtype)
    return (scores + bias).softmax(-1, dtype=torch.float32).to(inputs.value.dtype) @ inputs.value


def counts(
    patterns: Sequence[Pattern], queries: Tensor, length: int, heads: Sequence[int], all_heads: int, *, causal: bool
) -> Tensor:
    """Return how often queries attend to every key: the oracle of all patterns.

    A key that several branches of a LongNet attend to counts once for each; otherwise entries are 0 and 1. Dense
    attention with the logarithm added to the scores gives the same.

    Args:
        patterns: patterns of different heads, or one of all.
        queries: places of the queries.
        length: number of keys, n.
        heads: numbers of the heads.
        all_heads: how many heads there were at first.
        causal: whether a query sees no later keys.

    Returns:
        `[heads, queries, n]`, integers.
    """
    total = torch.ones(len(heads), len(queries), length, dtype=torch.long, device=queries.device)
    for pattern in patterns:
        rows = [row for row, head in enumerate(heads) if pattern.heads is None or head in pattern.heads]
        if rows:
            total[rows] = _counts(pattern, queries, length, [heads[row] for row in rows], all_heads)
    return total * (queries[:, None] >= torch.arange(length, device=queries.device)) if causal else total


def pairs(pattern: Pattern, length: int, *, causal: bool, head: int = 0, all_heads: int = 1) -> int:
    """Return the number of pairs of query and key that a head attends, without global tokens: its cost model."""
    match pattern:
        case BlockLocal():
            return block_local.pairs(pattern, length, causal=causal)
        case FixedRadius():
            return fixed_radius.pairs(pattern, length, causal=causal)
        case BlockStrided():
            return block_strided.pairs(pattern, length, causal=causal)
        case SparseTransformer():
            return sparse_transformer.pairs(pattern, length, causal=causal)
        case LongNet():
            return longnet.pairs(pattern, length, causal=causal, head=head, all_heads=all_heads)
        case _:
            assert_never(pattern)


def _by_head(inputs: AttentionInputs, patterns: Sequence[Pattern]) -> Tensor:
    rows_of: dict[int, list[int]] = {}  # by the place of their pattern; -1 is none
    for row, head in enumerate(inputs.heads):
        places = [place for place, pattern in enumerate(patterns) if pattern.heads is None or head in pattern.heads]
        rows_of.setdefault(places[-1] if places else -1, []).append(row)
    if len(rows_of) == 1:
        (place,) = rows_of
        return _attention(inputs, None if place < 0 else patterns[place])
    outputs = []
    for place, rows in rows_of.items():
        some = replace(
            inputs, query=inputs.query[:, rows], key=inputs.key[:, rows], value=inputs.value[:, rows],
            heads=tuple(inputs.heads[row] for row in rows),
        )  # fmt: skip
        outputs.append(_attention(some, None if place < 0 else patterns[place]))
    order = [row for rows in rows_of.values() for row in rows]
    return torch.cat(outputs, 1)[:, [order.index(row) for row in range(len(order))]]


def _attention(inputs: AttentionInputs, pattern: Pattern | None) -> Tensor:
    inputs = _without_later_padding(inputs)
    if pattern is None:
        return _dense(inputs)
    if not is_spelled_out() and inputs.length <= DENSE_BELOW and inputs.softcap is None:
        small = _small(pattern, inputs.length, inputs.heads, inputs.all_heads, inputs.causal, inputs.query.dtype)
        return _dense(inputs, *small)
    if isinstance(pattern, FixedRadius) and not is_exporting() and pattern.radius >= inputs.length - 1:
        return _dense(inputs)  # every query sees all keys
    outputs = [
        _with_global_tokens(some, pattern) if pattern.global_tokens else _part(some, pattern, lse=False).output
        for some in _some_heads(inputs, pattern)
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


def _some_heads(inputs: AttentionInputs, pattern: Pattern) -> Iterator[AttentionInputs]:
    """Yield the inputs of so many heads at a time that a tensor of the pattern is not larger than glibc keeps."""
    heads = inputs.query.shape[1]
    size = inputs.query.numel() * inputs.query.element_size() if not is_exporting() else 0
    turns = -(-_growth(pattern) * size // KEPT_BY_GLIBC) if inputs.query.device.type == "cpu" else 1
    if turns <= 1:
        yield inputs
        return
    rows = max(1, heads // turns)
    for start in range(0, heads, rows):
        chosen = slice(start, start + rows)
        yield replace(
            inputs, query=inputs.query[:, chosen], key=inputs.key[:, chosen], value=inputs.value[:, chosen],
            heads=inputs.heads[chosen],
        )  # fmt: skip


def _growth(pattern: Pattern) -> int:
    """Return about how many times as large as the queries a pattern's largest tensor is."""
    blocks_alone = isinstance(pattern, BlockLocal) and not pattern.global_tokens  # whole blocks are views
    return 1 if blocks_alone else 4


def _part(inputs: AttentionInputs, pattern: Pattern, *, lse: bool) -> Part:
    match pattern:
        case BlockLocal():
            return block_local.block_local(inputs, pattern.size, lse=lse)
        case FixedRadius():
            return fixed_radius.fixed_radius(inputs, pattern.radius, lse=lse)
        case BlockStrided():
            return block_strided.block_strided(inputs, pattern.stride, lse=lse)
        case SparseTransformer():
            return sparse_transformer.sparse_transformer(inputs, pattern, lse=lse)
        case LongNet():
            return longnet.longnet(inputs, pattern)
        case _:
            assert_never(pattern)


def _with_global_tokens(inputs: AttentionInputs, pattern: Pattern) -> Tensor:
    """Return the attention to the first tokens and, by the pattern, to the others; the first tokens see all."""
    number, length, device = pattern.global_tokens, inputs.length, inputs.query.device
    places, real = torch.arange(length, device=device), real_tokens(inputs)
    others = _part(replace(inputs, real=real & (places >= number)), pattern, lse=True)
    more = (0, 0, 0, number)  # a text may be shorter
    key, value = (functional.pad(t, more)[:, :, None, :number] for t in (inputs.key, inputs.value))
    first = functional.pad(real, (0, number))[:, None, :number]
    order = places[:, None] >= torch.arange(number, device=device) if inputs.causal else None
    part = attend(inputs, inputs.query[:, :, None], key, value, relation=order, real=first, lse=True)
    assert part.lse is not None
    output = merge([others, Part(part.output.squeeze(2), part.lse.squeeze(2))]).output
    if inputs.causal:
        return output
    query = functional.pad(inputs.query, more)[:, :, None, :number]
    seen = inputs.real if inputs.real is None else inputs.real[:, None]
    of_first = attend(inputs, query, inputs.key[:, :, None], inputs.value[:, :, None], real=seen, lse=False)
    return torch.cat([of_first.output.squeeze(2), functional.pad(output, more)[:, :, number:]], 2)[:, :, :length]


@lru_cache(maxsize=32)
def _small(
    pattern: Pattern, length: int, heads: tuple[int, ...], all_heads: int, causal: bool, dtype: torch.dtype
) -> tuple[Tensor | None, bool]:
    """Return what a pattern adds to the scores of all pairs, `[1, heads or 1, n, n]`, and whether a query sees nothing.

    The first is None if it adds nothing.
    """
    with torch.inference_mode(False):  # trainings read it, too
        count = _counts(pattern, torch.arange(length), length, heads, all_heads)[None]
        if not causal and bool((count == 1).all()):
            return None, False
        count = (count.tril() if causal else count).to(torch.float32)
        bias = torch.where(count > 0, count.log(), missing(dtype)).to(dtype)
        # A query that sees itself sees something; those that are padding are zeroed by the caller.
        return bias, bool((count.diagonal(dim1=-2, dim2=-1) == 0).any())


def _dense(inputs: AttentionInputs, bias: Tensor | None = None, empty: bool = False) -> Tensor:
    """Return dense attention.

    Args:
        inputs: queries, keys and values.
        bias: what a pattern adds to the scores, causality included, `[1, heads or 1, n, n]`; None is nothing.
        empty: whether some query may see nothing; its output is 0 then.
    """
    query, key, value, causal = inputs.query, inputs.key, inputs.value, inputs.causal
    if is_spelled_out() or inputs.softcap is not None:
        assert bias is None, "patterns are exported and capped in their efficient form"
        real = None if inputs.real is None else inputs.real[:, None]
        groups = (tensor[:, :, None] for tensor in (query, key, value))
        return attend(inputs, *groups, real=real, causal=causal, lse=False).output.squeeze(2)
    if bias is not None:
        bias, causal = bias.to(query.device), False
    if inputs.real is not None:
        if causal:
            ones = torch.ones(inputs.length, inputs.length, dtype=torch.bool, device=query.device)
            bias, causal = torch.where(ones.tril(), 0.0, missing(query.dtype)).to(query.dtype), False
        of_keys = torch.where(inputs.real[:, None, None], 0.0, missing(query.dtype)).to(query.dtype)
        bias = of_keys if bias is None else bias + of_keys
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=inputs.dropout, is_causal=causal, scale=inputs.scale
    )
    if not empty or bias is None:
        return output
    return output * (bias > missing(query.dtype) / 2).any(-1, keepdim=True)


def _without_later_padding(inputs: AttentionInputs) -> AttentionInputs:
    """Forget padding that causal attention cannot see, since it follows the texts."""
    if not inputs.causal or inputs.real is None or is_exporting():
        return inputs
    follows = bool((inputs.real[:, 1:] <= inputs.real[:, :-1]).all())
    return replace(inputs, real=None) if follows else inputs


def _counts(pattern: Pattern, queries: Tensor, length: int, heads: Sequence[int], all_heads: int) -> Tensor:
    """Return the oracle of one pattern with its global tokens, without causality, `[heads or 1, queries, n]`."""
    match pattern:
        case BlockLocal():
            count = block_local.counts(pattern, queries, length)
        case FixedRadius():
            count = fixed_radius.counts(pattern, queries, length)
        case BlockStrided():
            count = block_strided.counts(pattern, queries, length)
        case SparseTransformer():
            count = sparse_transformer.counts(pattern, queries, length)
        case LongNet():
            count = longnet.counts(pattern, queries, length, heads, all_heads)
        case _:
            assert_never(pattern)
    count[:, queries < pattern.global_tokens] = 1
    count[:, :, : pattern.global_tokens] = 1
    return count
