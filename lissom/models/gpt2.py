"""GPT-2 with the layers that the other families have, so that every technique works on it.

As transformers has it, query, key and value are one product, and its weights are stored the other way round (`Conv1D`,
`[in, out]`). Here they are three `nn.Linear`, and on disk again what transformers reads.
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
        """Answer the network, which splits the product: it is three already, of any widths."""
        return self


class Projections(nn.Module):
    """Three projections where the network expects one."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(self, fused: Conv1D) -> None:
        super().__init__()
        whole = _linear(fused)
        biases = whole.bias.chunk(len(_PARTS))
        for name, weight, bias in zip(_PARTS, whole.weight.chunk(len(_PARTS)), biases, strict=True):
            setattr(self, name, _filled(weight, bias))

    def forward(self, hidden: Tensor) -> _Parts:
        """Map `[batch, n, d]` to query, key and value."""
        return _Parts(self.query(hidden), self.key(hidden), self.value(hidden))


def separate(network: PreTrainedModel) -> PreTrainedModel:
    """Give a GPT-2 plain layers, in place, and return it; other networks are left as they are.

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
    """Return the weights of a separated GPT-2 as transformers names and lays them out."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        place, _, part = path.rpartition(".")
        if place.endswith(_FUSED) and kind in ("weight", "bias"):
            if part == _PARTS[0]:
                found[f"{place}.{kind}"] = torch.cat([state[f"{place}.{part}.{kind}"] for part in _PARTS])
        else:
            found[name] = tensor
    return {name: _turned(name, tensor) for name, tensor in found.items()}


def separated_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as transformers has them under the names and in the layout of a separated GPT-2."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place, _, kind = name.rpartition(".")
        turned = _turned(name, tensor)
        if place.endswith(_FUSED) and turned.shape[0] % len(_PARTS) == 0:
            pieces = turned.chunk(len(_PARTS))
            found |= {f"{place}.{part}.{kind}": piece for part, piece in zip(_PARTS, pieces, strict=True)}
        else:
            found[name] = turned
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if name.endswith(_TRANSPOSED) else tensor


def _check(config: PreTrainedConfig) -> None:
    wanted = [name for name in _NOT_HERE if getattr(config, name, False)]
    if wanted:
        raise InputError(f"this GPT-2 is configured with {', '.join(wanted)}, which lissom does not support")


def _linear(layer: Conv1D) -> nn.Linear:
    return _filled(layer.weight.t(), layer.bias)


def _filled(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(weight.detach().contiguous()), nn.Parameter(bias.detach().clone())
    return made
