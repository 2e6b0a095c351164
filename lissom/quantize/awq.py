"""Activation-aware factors for the weights of important inputs (AWQ, Lin et al. 2023, arXiv:2306.00978, §3.2).

Weights of inputs with large values are multiplied by a factor before rounding, and divided by it after, so that they
are rounded more finely. Factor j is (mean x_j^2)^(a/2), with the a of 21 that changes the layer's output least.
"""

import torch
from torch import Tensor

from lissom.models.grouped import GroupGrid

_EXPONENTS = torch.linspace(0, 1, 21).tolist()
_SMALLEST = 1e-4


def awq(weight: Tensor, gram: Tensor, grid: GroupGrid) -> Tensor:
    """Return the factors of the inputs, `[in]` float.

    Args:
        weight: `[out, in]`.
        gram: mean of x x^T over inputs x, `[in, in]`.
        grid: the grid.
    """
    weight, sizes = weight.detach().double(), gram.diagonal().clamp_min(0).sqrt()
    best, least = torch.ones_like(sizes), float("inf")
    for exponent in _EXPONENTS:
        factors = sizes.clamp_min(_SMALLEST) ** exponent
        factors = (factors / (factors.amax() * factors.amin()).sqrt()).float()
        error = output_error(grid.rounded(weight * factors) / factors - weight, gram)
        if error < least:
            best, least = factors.double(), error
    return best.float()


def output_error(change: Tensor, gram: Tensor) -> float:
    """Return the mean squared change of a layer's outputs, for a change of its weights `[out, in]`."""
    return float(((change.double() @ gram) * change).sum())
