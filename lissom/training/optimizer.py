"""AdamW with its parameter groups, and the learning-rate schedule."""

import math
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from lissom.training.config import TrainingParams


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], params: TrainingParams, rates: Mapping[str, float] | None = None
) -> AdamW:
    """Return a fused AdamW over the trainable parameters; vectors (biases, norms) get no weight decay.

    Sharded parameters (`DTensor`) have groups of their own, since fused kernels do not mix them with plain tensors.

    Args:
        parameters: the parameters by name.
        params: learning rate and weight decay.
        rates: factors of the learning rate, keyed by regular expressions over names; the first match applies.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            factor = next((factor for pattern, factor in (rates or {}).items() if re.search(pattern, name)), 1.0)
            key = (parameter.ndim > 1, isinstance(parameter, DTensor), factor)
            groups.setdefault(key, []).append(parameter)
    return AdamW(
        [
            {"params": groups[key], "weight_decay": params.weight_decay if key[0] else 0.0, "factor": key[2]}
            for key in sorted(groups, key=lambda key: (not key[0], key[1], key[2]))
        ],
        lr=params.learning_rate,
        fused=True,
    )


def learning_rate(step: int, total: int, params: TrainingParams) -> float:
    """Return the learning rate of step `step` (0-based) of `total`."""
    warmup = math.ceil(params.warmup * total)
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    remaining = 1 - (step - warmup) / max(1, total - warmup)
    match params.schedule:
        case "linear":
            return params.learning_rate * remaining
        case "cosine":
            return params.learning_rate * (1 - math.cos(math.pi * remaining)) / 2
        case "constant":
            return params.learning_rate


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group to `value` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["factor"]
