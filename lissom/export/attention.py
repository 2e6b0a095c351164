"""Exporting every attention layer as one kernel, onnxruntime's `MultiHeadAttention`.

By default the exporter decomposes attention into many small nodes, whose overhead is significant for a small model at
batch 1 (docs/decisions.md has the measurement).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "lissom_onnx"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Emit the kernel.

    query is `[batch, heads, n, d_h]`; key and value have the same shape, or fewer heads (grouped-query attention).
    """
    batch, heads, length, width = query.shape
    if key.shape[1] != heads:  # heads that share keys and values
        key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    projections = [t.transpose(1, 2).reshape(batch, length, heads * width) for t in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*projections, None, attention_mask),
        {"num_heads": heads, "scale": float(scaling), "unidirectional": int(getattr(module, "is_causal", False))},
        dtype=torch.float32,
        shape=(batch, length, heads * width),
        version=1,
    )
    return output.view(batch, length, heads, width), None


def _mask(*_: Any, attention_mask: Tensor, **__: Any) -> Tensor:
    """Return the padding mask `[batch, n]`, which the kernel takes directly."""
    return attention_mask.to(torch.int32)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
