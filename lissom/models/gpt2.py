"""GPT-2 with `nn.Linear` layers like the other families, so that every technique works on it.

transformers fuses query, key and value into one product and stores its weights transposed (`Conv1D`, `[in, out]`).
Here they are three `nn.Linear`; on disk they have transformers' layout.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lissom.errors import InputError

MODEL_TYPE = "gpt2"

_FUSED = "c_attn"
_PARTS = ("query", "key", "value")
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_NOT_HERE = ("add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")


class _Parts(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor

    def split(self, *_: Any, **__: Any) -> "_Parts":
        """Stand in for `Tensor.split`, which the network calls on the fused product; the parts may differ in width."""
        return self


class Projections(nn.Module):
    """Query, key and value projections in place of the fused one."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(self, layer: Conv1D) -> None:
        super().__init__()
        projection = _linear(layer)
        biases = projection.bias.chunk(len(_PARTS))
        for name, weight, bias in zip(_PARTS, projection.weight.chunk(len(_PARTS)), biases, strict=True):
            setattr(self, name, _make_linear(weight, bias))

    def forward(self, hidden: Tensor) -> _Parts:
        """Map `[batch, n, d]` to query, key and value."""
        return _Parts(self.query(hidden), self.key(hidden), self.value(hidden))


def separate(network: PreTrainedModel) -> PreTrainedModel:
    """Replace the `Conv1D` layers of a GPT-2 in place, and return it; other networks are returned unchanged.

    Raises:
        InputError: the config asks for a variant that the original GPT-2 does not have.
    """
    if network.config.model_type != MODEL_TYPE:
        return network
    _check(network.config)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                setattr(module, name, Projections(child) if name == _FUSED else _linear(child))
    return network


def fused_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state of a separated GPT-2 to transformers' names and layout."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        place, _, part = path.rpartition(".")
        if place.endswith(_FUSED) and kind in ("weight", "bias"):
            if part == _PARTS[0]:
                result[f"{place}.{kind}"] = torch.cat([state[f"{place}.{part}.{kind}"] for part in _PARTS])
        else:
            result[name] = tensor
    return {name: _transposed(name, tensor) for name, tensor in result.items()}


def separated_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state in transformers' layout to the names and layout of a separated GPT-2."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place, _, kind = name.rpartition(".")
        transposed = _transposed(name, tensor)
        if place.endswith(_FUSED) and transposed.shape[0] % len(_PARTS) == 0:
            pieces = transposed.chunk(len(_PARTS))
            result |= {f"{place}.{part}.{kind}": piece for part, piece in zip(_PARTS, pieces, strict=True)}
        else:
            result[name] = transposed
    return {name: tensor.contiguous() for name, tensor in result.items()}


def _transposed(name: str, tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if name.endswith(_TRANSPOSED) else tensor


def _check(config: PreTrainedConfig) -> None:
    unsupported = [name for name in _NOT_HERE if getattr(config, name, False)]
    if unsupported:
        raise InputError(f"this GPT-2 is configured with {', '.join(unsupported)}, which lissom does not support")


def _linear(layer: Conv1D) -> nn.Linear:
    return _make_linear(layer.weight.t(), layer.bias)


def _make_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().contiguous()), nn.Parameter(bias.detach().clone())
    return layer
