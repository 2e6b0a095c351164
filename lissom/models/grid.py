"""Quantisation grids for weights and activations: scales, zero points and rounding.

Weights: symmetric, one scale per output row. Activations: affine, unsigned 8-bit, zero exactly representable (Jacob et
al. 2018, arXiv:1712.05877, §2.1 and §3).
"""

import torch
from torch import Tensor

ACTIVATION_HIGH = 255
TABLE_HIGH = 127

_SMALLEST_SCALE = 1e-8


def weight_high(bits: int) -> int:
    """Return the largest integer of a symmetric b-bit weight: 2^(b-1) - 1."""
    return int(2 ** (bits - 1) - 1)


def row_scales(weight: Tensor, high: int) -> Tensor:
    """Return the scale of every row of `weight` `[rows, columns]`: max|w| / high, never 0. `[rows]`."""
    return (weight.detach().abs().amax(dim=-1) / high).clamp_min(_SMALLEST_SCALE)


def fake_quantize_rows(weight: Tensor, high: int) -> Tensor:
    """Round every row of `weight` `[rows, columns]` to its own symmetric grid of 2 high + 1 levels."""
    scales = row_scales(weight, high).float()  # the kernel takes no other scales, whatever the type of the weights
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -high, high)


def affine_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale (float) and zero point (int32) of the 8-bit affine grid over [low, high], widened to hold 0."""
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    scale = ((high - low) / ACTIVATION_HIGH).clamp_min(_SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, ACTIVATION_HIGH).to(torch.int32)
    return scale, zero_point
