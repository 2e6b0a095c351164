"""Attention of groups of queries to groups of keys, and merging the results of different keys.

Every pattern is a few calls of `attend`, whose groups are views of the sequence. A result with its log-sum-exp, the
logarithm of the softmax denominator, can be merged with that for other keys of the same queries: the merged result is
that of one softmax over all keys.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_SPELLED_OUT: ContextVar[bool] = ContextVar("spelled_out", default=False)


@dataclass(frozen=True)
class AttentionInputs:
    """What an attention function gets."""

    query: Tensor
    """`[batch, heads, n, d_h]`, as `key`; `value` may have another width."""
    key: Tensor
    value: Tensor
    scale: float
    """Factor of the scores."""
    real: Tensor | None = None
    """True for the tokens that are no padding, `[batch or 1, n]`; None if all are real."""
    causal: bool = False
    """Whether a query sees no later keys."""
    dropout: float = 0.0
    """Share of the attention weights that are dropped."""
    softcap: float | None = None
    """Bound of the scores, by a hyperbolic tangent."""
    heads: tuple[int, ...] = ()
    """Numbers of the heads, for patterns that differ between heads; after pruning or sharding they are not 0, 1, ..."""
    all_heads: int = 0
    """How many heads there were at first."""

    @property
    def length(self) -> int:
        """Return n, symbolic during an export."""
        return self.query.shape[2]


@dataclass(frozen=True)
class Part:
    """The result for some of a query's keys."""

    output: Tensor
    """`[batch, heads, n, d_h]`."""
    lse: Tensor | None
    """Log-sum-exp of the scores, `[batch, heads, n]` in float32; None if it was not asked for. A query without any of
    the keys has `missing`."""


def missing(dtype: torch.dtype) -> float:
    """Return the score of a pair that is not attended: finite, so that a query without keys gives no NaN."""
    return torch.finfo(torch.float32 if dtype == torch.float64 else dtype).min / 4


def attend(
    inputs: AttentionInputs,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    relation: Tensor | None = None,
    real: Tensor | None = None,
    causal: bool = False,
    lse: bool,
) -> Part:
    """Return the attention of groups of queries to the keys of their group.

    Args:
        inputs: scale, dropout and soft cap are taken from it.
        query: `[batch, heads, groups, c, d_h]`.
        key: `[batch, heads, groups, m, d_h]`; views are not copied.
        value: the same with its own width.
        relation: whether a query of a group sees a key of it, `[c, m]` or `[groups, c, m]`; None if all do.
        real: whether a key is real, `[batch or 1, groups, m]`, or `[batch or 1, heads, groups, m]` where heads have
            other keys; None if all are.
        causal: whether a query sees the keys up to its own place in the group alone.
        lse: whether the log-sum-exp is wanted.

    Returns:
        output `[batch, heads, groups, c, d_v]` and lse `[batch, heads, groups, c]`. A query without any key has an
        arbitrary output, and `missing` as lse.
    """
    if real is not None and real.dim() == 3:
        real = real.unsqueeze(1)
    fused_lse = query.device.type == "cpu" and inputs.dropout == 0 and query.shape[-1] == value.shape[-1]
    if is_spelled_out() or inputs.softcap is not None or (lse and not fused_lse):
        return _explicit(inputs, query, key, value, relation, real, causal, lse)
    batch, heads = query.shape[:2]
    if real is not None and (relation is not None or causal):
        # A mask of every example and group would be repeated for every head.
        bias = _bias(query, relation, causal)
        parts = [
            _fused(
                inputs, query[b : b + 1], key[b : b + 1], value[b : b + 1], bias + _real_bias(query, row)[0], False, lse
            )
            for b, row in enumerate(torch.split(real.expand(batch, -1, -1, -1), 1))
        ]
        outputs, sums = [part.output for part in parts], [part.lse for part in parts if part.lse is not None]
        return Part(torch.cat(outputs), torch.cat(sums) if lse else None)
    mask = None if relation is None else _bias(query, relation, causal)
    if real is not None:
        mask = _real_bias(query, real).expand(batch, heads, -1, -1, -1).flatten(0, 1)
    return _fused(inputs, query, key, value, mask, causal and relation is None, lse)


def merge(parts: Sequence[Part], *, detach_weights: bool = False) -> Part:
    """Return the attention to the keys of all parts, a key that is in several counted as often; 0 without any key.

    Args:
        parts: parts with their log-sum-exps.
        detach_weights: take the weights of the parts for constants in the backward pass.
    """
    sums = torch.stack([part.lse for part in parts if part.lse is not None])
    assert len(sums) == len(parts), "parts that are merged have their log-sum-exp"
    weights = sums.softmax(0)
    if detach_weights:
        weights = weights.detach()
    # Where no part has a key, all parts would weigh the same; the output is 0 there.
    seen = sums.amax(0) > missing(torch.float32) / 2
    weights = (weights * seen).to(parts[0].output.dtype)
    output = sum(part.output * weight.unsqueeze(-1) for part, weight in zip(parts, weights, strict=True))
    assert isinstance(output, Tensor)
    return Part(output, sums.logsumexp(0))


def is_exporting() -> bool:
    """Return whether the code runs to be traced into a graph, which needs any length."""
    return torch.compiler.is_exporting()


@contextmanager
def spelled_out() -> Iterator[None]:
    """Compute attention by single operations within the context, as exports do, so that they can be counted."""
    token = _SPELLED_OUT.set(True)
    try:
        yield
    finally:
        _SPELLED_OUT.reset(token)


def is_spelled_out() -> bool:
    """Return whether attention consists of single operations: when it is traced or counted."""
    return is_exporting() or _SPELLED_OUT.get()


def _explicit(
    inputs: AttentionInputs,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relation: Tensor | None,
    real: Tensor | None,
    causal: bool,
    lse: bool,
) -> Part:
    scores = (query * inputs.scale) @ key.transpose(-1, -2)
    if inputs.softcap is not None:
        scores = inputs.softcap * (scores / inputs.softcap).tanh()
    bias = None if relation is None and not causal else _bias(query, relation, causal)
    if real is not None:
        of_keys = _real_bias(query, real)
        bias = of_keys if bias is None else bias + of_keys
    scores = scores if bias is None else scores + bias
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if not lse:
        weights = functional.dropout(scores.softmax(-1).to(value.dtype), inputs.dropout)
        return Part(weights @ value, None)
    # One pass for both results; runtimes compute a log-sum-exp of its own slowly.
    top = scores.detach().amax(-1, keepdim=True)
    shares = (scores - top).exp()
    total = shares.sum(-1, keepdim=True)
    output = functional.dropout(shares, inputs.dropout).to(value.dtype) @ value / total.to(value.dtype)
    return Part(output, (top + total.log()).squeeze(-1))


def _fused(
    inputs: AttentionInputs,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    causal: bool,
    lse: bool,
) -> Part:
    """Run torch's fused attention, which takes four dimensions: batch and heads become one, groups the other."""
    shape = query.shape[:-1]
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    if bias is not None:
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    if lse:
        output, sums = _FusedWithSums.apply(query, key, value, bias, causal, inputs.scale)  # type: ignore[no-untyped-call]
        return Part(output.reshape(*shape, -1), sums.reshape(shape))
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=inputs.dropout, is_causal=causal, scale=inputs.scale
    )
    return Part(output.reshape(*shape, -1), None)


class _FusedWithSums(torch.autograd.Function):
    """torch's fused attention on the CPU with the log-sum-exp, through which gradients flow, too."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        ctx.save_for_backward(query, key, value, bias, output, sums)
        ctx.causal, ctx.scale = causal, scale
        return output, sums

    @staticmethod
    def backward(ctx: Any, of_output: Tensor, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, output, sums = ctx.saved_tensors
        # With weights P, dS = P * (dP - rowsum(dO * O)), and a gradient of the log-sum-exp adds P * dLSE: that is, an
        # output whose product with dO is smaller by dLSE. Merged parts have dLSE = dO (O - merged O), 0 where dO is.
        largest = of_output.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        direction = of_output / largest
        length = direction.square().sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        shift = (of_sums.unsqueeze(-1) / largest) / length
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            of_output, query, key, value, output - (shift * direction).to(output.dtype), sums, 0.0, ctx.causal,
            attn_mask=bias, scale=ctx.scale,
        )  # fmt: skip
        return *gradients, None, None, None


def _bias(query: Tensor, relation: Tensor | None, causal: bool) -> Tensor:
    """Return what is added to the scores, `[c, m]` or `[groups, c, m]`."""
    if causal:
        places = torch.arange(query.shape[-2], device=query.device)
        order = places[:, None] >= places
        relation = order if relation is None else relation & order
    assert relation is not None
    return _as_bias(query, relation)


def _real_bias(query: Tensor, real: Tensor) -> Tensor:
    """Return what is added to the scores, `[batch or 1, heads or 1, groups, 1, m]`."""
    return _as_bias(query, real).unsqueeze(-2)


def _as_bias(query: Tensor, allowed: Tensor) -> Tensor:
    return torch.where(allowed, 0.0, missing(query.dtype)).to(query.dtype)
