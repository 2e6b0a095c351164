"""The Hard-Concrete distribution: gates in [0, 1] that are exactly 0 or 1 with a probability, and have a gradient.

Louizos et al. 2018, arXiv:1712.01312, section 4, with the temperature that Voita et al. 2019, arXiv:1905.09418, take
for attention heads. With u uniform on (0, 1), s = sigmoid((log u - log(1 - u) + log alpha) / TEMPERATURE) is stretched
to (LOW, HIGH) and clipped to [0, 1].
"""

import math

import torch
from torch import Tensor

TEMPERATURE, LOW, HIGH = 0.33, -0.1, 1.1
_MARGIN = 1e-6
"""Distance of u from 0 and 1, where its logarithms are infinite."""


def sample(log_alpha: Tensor) -> Tensor:
    """Draw a gate for every element of `log_alpha`, of its shape; the gradient passes to `log_alpha`."""
    u = torch.empty_like(log_alpha, requires_grad=False).uniform_(_MARGIN, 1 - _MARGIN)
    return _stretched((u.log() - (-u).log1p() + log_alpha) / TEMPERATURE)


def expected_state(log_alpha: Tensor) -> Tensor:
    """Return the gates that stand for the distributions at test time, without noise and temperature.

    They are above 1/2 where `log_alpha` is positive.
    """
    return _stretched(log_alpha)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return P(gate != 0)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOW / HIGH))


def _stretched(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0, 1)
