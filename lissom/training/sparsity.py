"""Zeros that stay zero through a training."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from lissom.models.sites import projections_of
from lissom.training.hooks import Hook


class KeepZeros(Hook):
    """Keeps the zeros that the weights of Linear layers have when the training begins.

    Masked gradients alone would do in exact arithmetic; the weights are masked too, so that no optimiser's state and no
    resumed checkpoint can bring a weight back.
    """

    def __init__(self) -> None:
        self._masks: list[tuple[Tensor, Tensor]] = []

    def begin(self, network: nn.Module) -> None:
        """Find the zeros."""
        weights = (_trained(module) for module in network.modules() if isinstance(module, nn.Linear))
        self._masks = [(weight, weight.detach() != 0) for weight in weights if bool((weight.detach() == 0).any())]

    def on_gradients(self) -> None:
        """Mask the gradients."""
        for weight, mask in self._masks:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002
        """Mask the weights."""
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.mul_(mask)


def zeros_of(network: PreTrainedModel) -> float:
    """Return the share of zeros among the weights of the Linear layers of attentions and feed-forward networks."""
    paths = (path for target in ("attention", "ffn") for path in projections_of(network, target))
    layers = (network.get_submodule(path) for path in paths)
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    count = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / count if count else 0.0


def _trained(layer: nn.Linear) -> Tensor:
    """Return the weight that learns, also where a layer multiplies with a function of it, such as rounded values."""
    if parametrize.is_parametrized(layer, "weight"):
        original: Tensor = layer.get_submodule("parametrizations.weight").get_parameter("original")
        return original
    return layer.weight
