"""Fused projections taken apart into `nn.Linear` layers, so that every technique works on them.

Some families compute several projections in one product: query, key and value (GPT-2, ModernBERT), or the two inputs of
a gated feed-forward network (ModernBERT). GPT-2 also stores weights transposed (`Conv1D`, `[in, out]`). The table of
families names those layers. In memory they are separate `nn.Linear`; on disk they have transformers' layout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.pytorch_utils import Conv1D

from lissom.models.families import check_variant, family_of
from lissom.models.family import Family, FusedLayer


class _Parts(tuple[Tensor, ...]):
    """Outputs of the parts, with the methods that networks call on the fused output; the parts may differ in width."""

    __slots__ = ()

    def __new__(cls, *parts: Tensor) -> "_Parts":
        """Take the parts one by one, as a named tuple does: torch's backward hooks make outputs anew that way."""
        return super().__new__(cls, parts)

    def split(self, *_: Any, **__: Any) -> tuple[Tensor, ...]:
        """Return the parts, as `Tensor.split`."""
        return tuple(self)

    chunk = unbind = split

    def view(self, *shape: int) -> "_Parts":
        """Return views of the parts, for a `shape` whose dimension -3 counts the parts."""
        assert shape[-3] == len(self), "only the dimension of the parts can be left out"
        return _Parts(*(part.view(*shape[:-3], *shape[-2:]) for part in self))


class Projections(nn.Module):
    """Separate projections in place of a fused one; each is a submodule with the name of its part."""

    def __init__(self, layer: nn.Module, parts: tuple[str, ...]) -> None:
        super().__init__()
        self.parts = parts
        weight, bias = _parameters(layer)
        biases = [None] * len(parts) if bias is None else bias.chunk(len(parts))
        for name, rows, offset in zip(parts, weight.chunk(len(parts)), biases, strict=True):
            setattr(self, name, _make_linear(rows, offset))

    def forward(self, hidden: Tensor) -> _Parts:
        """Map `[batch, n, d]` to the outputs of the parts, each `[batch, n, width]`."""
        return _Parts(*(self.get_submodule(name)(hidden) for name in self.parts))


def separate(network: PreTrainedModel) -> PreTrainedModel:
    """Take the fused and transposed layers of a network apart in place, and return the network.

    Raises:
        InputError: the config asks for a variant of the family that lissom does not support.
    """
    family = family_of(network)
    check_variant(network.config)
    for parent, module in list(network.named_modules()):
        for name, child in list(module.named_children()):
            layer = _fused_layer(family, f"{parent}.{name}")
            if layer is not None:
                setattr(module, name, Projections(child, layer.parts))
            elif isinstance(child, Conv1D):
                setattr(module, name, _make_linear(*_parameters(child)))
            elif isinstance(child, BartScaledWordEmbedding) and child.embed_scale == 1.0:
                setattr(module, name, _plain_embedding(child))
    return network


def fused_state(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Convert the state of a separated network to transformers' names and layout."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        place, _, part = path.rpartition(".")
        layer = _fused_layer(family, place) if kind in ("weight", "bias") else None
        if layer is None or not all(f"{place}.{part}.{kind}" in state for part in layer.parts):
            result[name] = tensor  # of parts that are stored in different forms, each has a name of its own
        elif part == layer.parts[0]:
            result[f"{place}.{kind}"] = torch.cat([state[f"{place}.{part}.{kind}"] for part in layer.parts])
    return {name: _transposed(name, tensor, family) for name, tensor in result.items()}


def separated_state(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Convert a state in transformers' layout to the names and layout of a separated network."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place, _, kind = name.rpartition(".")
        transposed, layer = _transposed(name, tensor, family), _fused_layer(family, place)
        if layer is not None and transposed.shape[0] % len(layer.parts) == 0:
            pieces = transposed.chunk(len(layer.parts))
            result |= {f"{place}.{part}.{kind}": piece for part, piece in zip(layer.parts, pieces, strict=True)}
        else:
            result[name] = transposed
    return {name: tensor.contiguous() for name, tensor in result.items()}


def _fused_layer(family: Family, path: str) -> FusedLayer | None:
    return next((layer for layer in family.fused if path.endswith(f".{layer.name}")), None)


def _transposed(name: str, tensor: Tensor, family: Family) -> Tensor:
    endings = tuple(f".{layer}.weight" for layer in family.transposed)
    return tensor.t().contiguous() if name.endswith(endings) else tensor


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return weight `[out, in]` and bias `[out]` of a Linear or a Conv1D."""
    assert isinstance(layer, nn.Linear | Conv1D)
    return layer.weight.t() if isinstance(layer, Conv1D) else layer.weight, layer.bias


def _make_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _plain_embedding(table: nn.Embedding) -> nn.Embedding:
    """Return an embedding with the weight of one that could scale what it returns, and does not."""
    plain = nn.Embedding(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, device="meta")
    plain.weight = table.weight
    return plain
