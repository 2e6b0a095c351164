"""AdamW with its parameter groups, and the course of the learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from lissom.training.config import TrainingParams


def make_optimizer(parameters: Iterable[nn.Parameter], params: TrainingParams) -> AdamW:
    """Return a fused AdamW over the trainable parameters; vectors (biases, norms) get no weight decay.

    Parameters that are pieces of a larger one have groups of their own: fused kernels do not mix them with others.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [one for one in trainable if (one.ndim > 1) == matrix and isinstance(one, DTensor) == piece],
            "weight_decay": params.weight_decay if matrix else 0.0,
        }
        for matrix in (True, False)
        for piece in (False, True)
    ]
    return AdamW([group for group in groups if group["params"]], lr=params.learning_rate, fused=True)


def learning_rate(step: int, total: int, params: TrainingParams) -> float:
    """Return the learning rate of step `step` (0-based) of `total`: a function of its arguments alone."""
    warmup = math.ceil(params.warmup * total)
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, total - warmup)
    match params.schedule:
        case "linear":
            return params.learning_rate * left
        case "cosine":
            return params.learning_rate * (1 - math.cos(math.pi * left)) / 2
        case "constant":
            return params.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value
