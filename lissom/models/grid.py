"""Quantisation grids for weights and activations: scales, zero points and rounding.

Weights: symmetric, one scale per output row. Activations: affine, unsigned, zero exactly representable (Jacob et al.
2018, arXiv:1712.05877, §2.1 and §3). Rounding is half to even.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.models.config import ScaleName

ACTIVATION_HIGH = 255
TABLE_HIGH = 127

_SMALLEST_SCALE = 1e-8
_THRESHOLD = 0.7  # of the mean weight: below it, a ternary weight is 0 (Li et al. 2016, arXiv:1605.04711, §2.3)
_CLIPPING = torch.linspace(0.5, 1.0, 81)


def weight_high(bits: int) -> int:
    """Return the largest integer of a symmetric b-bit weight: 2^(b-1) - 1."""
    return int(2 ** (bits - 1) - 1)


def row_scales(weight: Tensor, high: int) -> Tensor:
    """Return the scale of every row of `weight` `[rows, columns]`: max|w| / high, never 0. `[rows]`."""
    return (weight.detach().abs().amax(dim=-1) / high).clamp_min(_SMALLEST_SCALE)


def clipped_scales(weight: Tensor, high: int) -> Tensor:
    """Return the scale of every row with the least squared error, `[rows]`: the largest weights may be clipped.

    81 ratios from 0.5 to 1 of the scale by max|w| are tried, so that the error is never larger than with that one.
    """
    weight, largest = weight.detach(), row_scales(weight, high)
    best, least = largest.clone(), torch.full_like(largest, float("inf"))
    for ratio in _CLIPPING.to(weight.device):
        scales = largest * ratio
        error = ((weight / scales[:, None]).round().clamp(-high, high) * scales[:, None] - weight).square().sum(-1)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best


def fake_quantize_rows(weight: Tensor, high: int, scales: Tensor | None = None) -> Tensor:
    """Round every row of `weight` `[rows, columns]` to a symmetric grid of 2 high + 1 levels; by default to its own."""
    # The kernel takes no other scales than float, whatever the type of the weights.
    scales = (row_scales(weight, high) if scales is None else scales).float()
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -high, high)


def affine_range(low: Tensor, high: Tensor, levels: int = ACTIVATION_HIGH) -> tuple[Tensor, Tensor]:
    """Return scale (float) and zero point (int32) of the grid of 0 to `levels` over [low, high], widened to hold 0."""
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    scale = ((high - low) / levels).clamp_min(_SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, levels).to(torch.int32)
    return scale, zero_point


@dataclass(frozen=True)
class WeightGrid:
    """The grid that the rows of a weight are rounded to.

    With `mean` (Hubara et al. 2016, arXiv:1609.07061, with a scale per row as Rastegari et al. 2016, arXiv:1603.05279):
    1 bit is the sign times the mean |w|; 2 bits are 0 below 0.7 mean|w|, and else the sign times the mean of the rest.
    """

    bits: int
    scale: ScaleName = "max"

    @property
    def low(self) -> int:
        """Return the smallest integer; learned grids use the full range (Esser et al. 2020, arXiv:1902.08153, §2)."""
        return -(2 ** (self.bits - 1)) if self.scale == "learned" else -self.high

    @property
    def high(self) -> int:
        """Return the largest integer."""
        return 1 if self.scale == "mean" else weight_high(self.bits)

    def scales(self, weight: Tensor) -> Tensor:
        """Return the scales of the rows of a weight `[rows, columns]`, `[rows]`; learned ones start with these."""
        match self.scale:
            case "max":
                return row_scales(weight, self.high)
            case "mse":
                return clipped_scales(weight, self.high)
            case "learned":
                return positive(2 * weight.detach().abs().mean(-1) / math.sqrt(self.high))
            case "mean":
                size, kept = weight.detach().abs(), self._signs(weight).abs()
                return positive((size * kept).sum(-1) / kept.sum(-1).clamp_min(1))

    def integers(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Return the integers of a weight `[rows, columns]` as int8, of the same shape."""
        if self.scale == "mean":
            return self._signs(weight).to(torch.int8)
        return (weight.detach() / scales[:, None]).round().clamp(self.low, self.high).to(torch.int8)

    def fake(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Return the rounded weight, with the gradient of a clipped straight-through estimator.

        The gradient is 0 where a weight was clipped; with `mean`, where |w| > 1. It reaches learned scales.
        """
        match self.scale:
            case "learned":
                return learned_rounding(weight, scales, self.low, self.high)
            case "mean":
                rounded = self._signs(weight) * scales[:, None]
                inside = weight.abs() <= 1
                return torch.where(inside, weight + (rounded - weight).detach(), rounded)
            case _:
                return fake_quantize_rows(weight, self.high, scales)

    def _signs(self, weight: Tensor) -> Tensor:
        """Return -1, 0 or 1 for every weight; with 1 bit the sign of 0 is 1."""
        weight = weight.detach()
        if self.bits == 1:
            return torch.where(weight < 0, -1.0, 1.0).to(weight.dtype)
        return weight.sign() * (weight.abs() > _THRESHOLD * weight.abs().mean(-1, keepdim=True))


def learned_rounding(values: Tensor, steps: Tensor, low: int, high: int) -> Tensor:
    """Round `values` `[rows, ...]` to low..high times learned steps, `[rows]`, or a scalar for all values."""
    rounded: Tensor = _LearnedStep.apply(values, steps, low, high)  # type: ignore[no-untyped-call]
    return rounded


class _LearnedStep(torch.autograd.Function):
    """Rounding with a learned step s per row (Esser et al. 2020, arXiv:1902.08153, equations 1 to 3 and §2.2).

    Inside the range the gradient of the rounded v is -v/s + round(v/s) by s, and 1 by v; outside it is the bound by s,
    and 0 by v. The gradient by s is scaled by 1 / sqrt(features * high), with the features of a row.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, steps: Tensor, low: int, high: int) -> Tensor:
        """Return `values` `[rows, ...]` rounded; `steps` is `[rows]`, or a scalar for all values."""
        steps = positive(steps)
        scaled = values / _spread(steps, values)
        ctx.save_for_backward(scaled)
        ctx.low, ctx.high, ctx.shape = low, high, steps.shape  # type: ignore[attr-defined]
        return scaled.round().clamp(low, high) * _spread(steps, values)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients by the values and the steps."""
        (scaled,) = ctx.saved_tensors  # type: ignore[attr-defined]
        low, high, shape = ctx.low, ctx.high, ctx.shape  # type: ignore[attr-defined]
        (gradient,) = gradients
        inside = (scaled >= low) & (scaled <= high)
        by_step = gradient * torch.where(inside, scaled.round() - scaled, scaled.clamp(low, high))
        # A step of activations is shared by all tokens, whose number must not matter (§2.2: the number of features).
        total = by_step.flatten(1).sum(1) if shape else by_step.sum()
        return gradient * inside, total / (scaled.shape[-1] * max(high, 1)) ** 0.5, None, None


def positive(steps: Tensor) -> Tensor:
    """Return learned steps as they are used: a training may drive one below 0."""
    return steps.clamp_min(_SMALLEST_SCALE)


def _spread(steps: Tensor, values: Tensor) -> Tensor:
    """Return steps that multiply with values."""
    return steps.view(-1, *[1] * (values.ndim - 1)) if steps.ndim else steps
