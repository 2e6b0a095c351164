"""Attention as one kernel: in an export, every attention layer becomes onnxruntime's `MultiHeadAttention`.

Left to itself the exporter spells attention out in many small nodes, whose overhead a small
model feels at batch 1 (docs/decisions.md has the measurement).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "lissom_onnx"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Emit the kernel. query `[batch, heads, n, d_h]`, key and value the same with as many or fewer heads."""
    batch, heads, length, width = query.shape
    if key.shape[1] != heads:  # heads that share keys and values
        key, value = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (key, value))
    joined = [t.transpose(1, 2).reshape(batch, length, heads * width) for t in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*joined, None, attention_mask),
        {"num_heads": heads, "scale": float(scaling), "unidirectional": int(getattr(module, "is_causal", False))},
        dtype=torch.float32,
        shape=(batch, length, heads * width),
        version=1,
    )
    return output.view(batch, length, heads, width), None


def _mask(*_: Any, attention_mask: Tensor, **__: Any) -> Tensor:
    """Hand the padding mask `[batch, n]` through: the kernel takes it as it is."""
    return attention_mask.to(torch.int32)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
