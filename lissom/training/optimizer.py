"""AdamW with its parameter groups, and the course of the learning rate."""

import math

import torch
from torch import nn
from torch.optim import AdamW

from lissom.training.config import TrainingParams


def make_optimizer(network: nn.Module, params: TrainingParams) -> AdamW:
    """Return a fused AdamW over the trainable parameters; vectors (biases, norms) get no weight decay."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
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
