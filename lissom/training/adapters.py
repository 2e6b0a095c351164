"""Low-rank adapters: a training of few parameters beside frozen weights, into which they are merged at its end.

A Linear layer of a block returns W x + (alpha / r) B A x, where only A `[r, in]` and B `[out, r]` learn (LoRA, Hu et
al. 2021, arXiv:2106.09685, section 4.1). A starts as a random matrix and B at zero, so that the network starts as it
was. What lies outside the blocks is frozen too, but for the head of a task that predicts labels or numbers.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.models.families import family_of
from lissom.models.layers import Indivisible
from lissom.models.sites import blocks_at
from lissom.models.together import members_of
from lissom.training.config import LoraParams

_NAME = "adapter"


class Adapter(nn.Module, Indivisible):
    """The product of two narrow matrices beside a Linear layer."""

    def __init__(self, layer: nn.Linear, params: LoraParams, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(layer.in_features)
        down = torch.empty(params.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(layer.weight))
        self.up = nn.Parameter(torch.zeros(layer.out_features, params.rank).to(layer.weight))
        self.scale = params.alpha / params.rank

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[batch, n, in]` to what is added to the layer's output, `[batch, n, out]`."""
        return F.linear(F.linear(inputs, self.down), self.up) * self.scale

    def product(self) -> Tensor:
        """Return what is added to the layer's weight at the end, `[out, in]`."""
        return self.up @ self.down * self.scale


@contextmanager
def adapted(network: nn.Module, params: LoraParams | None, seed: int) -> Iterator[None]:
    """Train adapters alone within the context, then merge them into the weights; None trains all weights.

    Args:
        network: the network, or several `Together`; those that are no Transformers are trained as they are.
        params: rank and scale.
        seed: seed of the new matrices.
    """
    layers = [] if params is None else list(_layers(network))
    frozen = _freeze(network) if layers else []
    generator, handles = torch.Generator().manual_seed(seed), []
    for layer in layers:
        assert params is not None
        layer.add_module(_NAME, Adapter(layer, params, generator))
        handles.append(layer.register_forward_hook(_add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            adapter = layer.get_submodule(_NAME)
            assert isinstance(adapter, Adapter)
            with torch.no_grad():
                layer.weight.add_(adapter.product())
            delattr(layer, _NAME)
        for parameter in frozen:
            parameter.requires_grad_(True)


def _add(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = layer.get_submodule(_NAME)(arguments[0])
    return output + added


def _transformers(network: nn.Module) -> Iterator[PreTrainedModel]:
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and family_of(member).stacks:
            yield member


def _layers(network: nn.Module) -> Iterator[nn.Linear]:
    """Yield the Linear layers inside of blocks."""
    for member in _transformers(network):
        for stack in family_of(member).stacks:
            for module in blocks_at(member, stack).modules():
                if isinstance(module, nn.Linear):
                    yield module


def _freeze(network: nn.Module) -> list[nn.Parameter]:
    """Freeze all but the heads of Transformers; return the parameters that were trainable before."""
    frozen: list[nn.Parameter] = []
    for member in _transformers(network):
        modules = dict(member.named_modules())
        heads = _parameters(modules[path] for path in family_of(member).head if path in modules)
        trunk = _parameters([member.base_model, *([modules["lm_head"]] if "lm_head" in modules else [])])
        frozen += [parameter for parameter in trunk - heads if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _parameters(modules: Iterable[nn.Module]) -> set[nn.Parameter]:
    return {parameter for module in modules for parameter in module.parameters()}
