"""Exporting every attention layer as one kernel, onnxruntime's `MultiHeadAttention`, or by its pattern.

By default the exporter decomposes attention into many small nodes, whose overhead is significant for a small model at
batch 1 (docs/decisions.md has the measurement).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from transformers import AttentionInterface, AttentionMaskInterface

from lissom.attention.run import attention
from lissom.models.patterned import inputs_for, patterns_of

NAME = "lissom_onnx"
_LONG = 1024
"""Longest input, in tokens, of a graph in which a window is a bias of the dense kernel. At 2,048 tokens a window by
itself is three times as fast as that kernel without a bias (benchmarks/results/attention.md)."""
_OUTSIDE = -10000.0  # what the kernel itself adds to the scores of padding


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Emit the kernel, or single operations where scores have a soft cap, which the kernel does not know.

    query is `[batch, heads, n, d_h]`; key and value have the same shape, or fewer heads (grouped-query attention). With
    a sliding window a query sees the keys that are less than `sliding_window` tokens away. Patterns are emitted as
    plain operations in their efficient form, and so are windows, if inputs may be long; the longest input is the upper
    bound of the traced length.
    """
    if sliding_window is not None and statically_known_true(query.shape[2] <= sliding_window):
        sliding_window = None  # no input exceeds it
    is_long = not statically_known_true(query.shape[2] <= _LONG)
    if patterns := patterns_of(module, sliding_window if is_long else None):
        inputs = inputs_for(module, query, key, value, attention_mask, scaling=scaling, softcap=softcap)
        return attention(inputs, patterns).transpose(1, 2), None
    batch, heads, length, width = query.shape
    if key.shape[1] != heads:  # heads that share keys and values
        key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    if softcap is not None:
        bias = (1.0 - attention_mask[:, None, None].to(query.dtype)) * _OUTSIDE
        if (outside := _window_bias(query, sliding_window)) is not None:
            bias = bias + outside
        if getattr(module, "is_causal", False):
            bias = bias + torch.full((length, length), _OUTSIDE, dtype=query.dtype, device=query.device).triu(1)
        scores = softcap * (query @ key.transpose(2, 3) * scaling / softcap).tanh()
        return ((scores + bias).softmax(-1) @ value).transpose(1, 2), None
    projections = [t.transpose(1, 2).reshape(batch, length, heads * width) for t in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*projections, None, attention_mask, _window_bias(query, sliding_window)),
        {"num_heads": heads, "scale": float(scaling), "unidirectional": int(getattr(module, "is_causal", False))},
        dtype=torch.float32,
        shape=(batch, length, heads * width),
        version=1,
    )
    return output.view(batch, length, heads, width), None


def _window_bias(query: Tensor, window: int | None) -> Tensor | None:
    """Return what a window, of which the kernel knows nothing, adds to the scores: `[1, 1, n, n]`; None without one."""
    if window is None:
        return None
    length = query.shape[2]
    places = torch.arange(length, device=query.device)
    outside = (places[:, None] - places).abs() >= window
    return torch.where(outside, _OUTSIDE, 0.0).to(query.dtype)[None, None]


def _mask(*_: Any, attention_mask: Tensor, **__: Any) -> Tensor:
    """Return the padding mask `[batch, n]`, which the kernel takes directly."""
    return attention_mask.to(torch.int32)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
