"""Observers: which range of the inputs that were seen an activation's grid covers.

A wider range clips less, a narrower one has finer steps (Nagel et al. 2021, arXiv:2106.08295, §3.2).
"""

from functools import partial

import torch
from torch import Tensor

from lissom.models.fake_quant import RangeOf, whole_range
from lissom.models.grid import affine_range
from lissom.quantize.config import Int8Training

_RATIOS = torch.linspace(0.5, 1.0, 51)
_SAMPLE = 65_536


def range_of(params: Int8Training) -> RangeOf:
    """Return the function that gives the range of a batch's values."""
    match params.observer:
        case "average" | "min_max":
            return whole_range
        case "percentile":
            return partial(percentile_range, percentile=params.percentile)
        case "mse":
            return partial(least_error_range, levels=2**params.input_bits - 1)


def percentile_range(values: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """Return the range without the outermost values: what is beyond the percentile is divided between both ends."""
    values = _sampled(values)
    tail = (1 - percentile / 100) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], device=values.device))
    return low, high


def least_error_range(values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return that of 51 ranges, from half of the whole one to all of it, whose rounding has the least squared error."""
    low, high = whole_range(values)
    values = _sampled(values)
    best, least = (low, high), torch.tensor(float("inf"), device=values.device)
    for ratio in _RATIOS.to(values.device):
        bounds = low * ratio, high * ratio
        scale, zero = affine_range(*bounds, levels)
        error = (torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, levels) - values).square().sum()
        if error < least:
            best, least = bounds, error
    return best


def _sampled(values: Tensor) -> Tensor:
    """Return about as many values as a quantile may be taken of in a moment: all features of evenly spread tokens.

    A few features are far larger than the others (Dettmers et al. 2022, arXiv:2208.07339, section 4), and a stride over
    all values that has a factor in common with their number would miss them.
    """
    tokens = values.float().reshape(-1, values.shape[-1])
    count = max(1, _SAMPLE // tokens.shape[1])
    if len(tokens) > count:
        tokens = tokens[torch.linspace(0, len(tokens) - 1, count, device=tokens.device).round().long()]
    return tokens.flatten()
