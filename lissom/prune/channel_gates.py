"""A gate on every hidden channel, of the whole network at once (Xia et al. 2022, arXiv:2204.00408).

The gates multiply what is written to the hidden states: embeddings, the outputs of attentions and feed-forward
networks, and what a LayerNorm returns. A LayerNorm weighs its mean and variance with the gates, so that a closed
channel is a removed one; a root-mean-square norm needs nothing, since removal makes up for the channels of zeros.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lissom.models.channels import channel_axes

Gates = Callable[[], Tensor]
"""Returns the gates of all channels, `[hidden_size]`, which gradients flow into."""


def gate_channels(network: PreTrainedModel, gates: Gates) -> list[RemovableHandle]:
    """Multiply hidden states by gates in every forward pass; the handles undo it.

    Args:
        network: the network, without any parameters that its class does not have.
        gates: the gates; within a forward pass the same.
    """
    axes = channel_axes(network)
    handles = []
    for path, module in network.named_modules():
        of_weight, of_bias = axes.get(f"{path}.weight"), axes.get(f"{path}.bias")
        if isinstance(module, nn.LayerNorm) and of_weight:
            handles.append(module.register_forward_hook(_weighted_norm(gates)))
        elif (isinstance(module, nn.Embedding) and of_weight) or of_bias or (
            isinstance(module, nn.Linear) and of_weight and 0 in of_weight
        ):  # fmt: skip
            handles.append(module.register_forward_hook(_multiplied(gates)))
    return handles


def _multiplied(gates: Gates) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * gates().to(output.dtype)

    return hook


def _weighted_norm(gates: Gates) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.LayerNorm)
        values, weights = inputs[0].float(), gates()
        total = weights.sum()
        mean = (values * weights).sum(-1, keepdim=True) / total
        variance = ((values - mean).square() * weights).sum(-1, keepdim=True) / total
        normal = (values - mean) * (variance + module.eps).rsqrt() * module.weight
        return ((normal if module.bias is None else normal + module.bias) * weights).to(output.dtype)

    return hook
