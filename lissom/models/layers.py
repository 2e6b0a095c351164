"""Protocols of layers, so that trainings, parallelism and exports need not know a technique's classes."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


@runtime_checkable
class Observer(Protocol):
    """A layer that records the range of its inputs, and updates its own range between steps, never within one.

    A step is therefore the same in however many parts it is computed.
    """

    observer_enabled: bool
    """Whether inputs are recorded."""
    mask_name: str
    """Name of the mask among a batch's inputs: `attention_mask`, or `decoder_attention_mask` where a decoder writes."""
    real_tokens: Tensor | None
    """Mask of the current batch's tokens that are not padding, `[batch, n]` bool; None records all tokens."""
    pending_range: tuple[Tensor, Tensor] | None
    """Minimum and maximum since the last update, scalars."""

    def update_range(self) -> None:
        """Move the layer's range towards `pending_range`, and reset the latter."""
        ...


@runtime_checkable
class Convertible(Protocol):
    """A layer that is exported in another form than it is trained in; both compute the same."""

    def converted(self) -> nn.Module:
        """Return the exported form."""
        ...


@runtime_checkable
class Projection(Protocol):
    """A linear map, whatever its weights are stored as."""

    in_features: int
    out_features: int


@runtime_checkable
class HasMatrix(Protocol):
    """A linear map or a table that does not keep the weights that it computes with as a parameter."""

    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]` or `[rows, d]`."""
        ...


class AskedForItsType:
    """Base of projections without a parameter `weight`."""

    @property
    def weight(self) -> Tensor:
        """Return nothing, in the type that the layer computes in; transformers' T5 asks its last projection for it."""
        return torch.empty(0)


@runtime_checkable
class Stored(HasMatrix, Protocol):
    """A layer whose weights are stored in another form than floats; it cannot be trained or cut."""

    @property
    def represented(self) -> int:
        """Return the number of weights that the stored form stands for."""
        ...


class StoredLinear(AskedForItsType, nn.Module, ABC):
    """Base of linear maps whose weights are stored in another form than floats."""

    bias: Tensor | None
    computes_with_integers = False
    """Whether the products are of integers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    @property
    def represented(self) -> int:
        """Return the number of weights and biases that the stored form stands for."""
        return self.in_features * self.out_features + (0 if self.bias is None else self.out_features)

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]`."""


class Indivisible:
    """Base of layers that tensor parallelism cannot shard and torch.compile cannot trace."""


def observers_of(network: nn.Module) -> list[Observer]:
    """Return the observer layers of a network."""
    return [module for module in network.modules() if isinstance(module, Observer)]


def has_indivisible(network: nn.Module) -> bool:
    """Return whether a network has `Indivisible` layers."""
    return any(isinstance(module, Indivisible) for module in network.modules())


def computes_with_integers(network: nn.Module) -> bool:
    """Return whether an exported network has products of integers: it is quantised, or will be on export."""
    return any(
        isinstance(module, Convertible) or getattr(module, "computes_with_integers", False)
        for module in network.modules()
    )


def is_stored(network: nn.Module) -> bool:
    """Return whether some weights of a network are stored in another form than floats, or will be on export."""
    return any(isinstance(module, Convertible | Stored) for module in network.modules())


def matrix_of(layer: nn.Module) -> Tensor:
    """Return the weights of a Linear `[out, in]` or an Embedding `[rows, d]`, in whatever form they are stored."""
    if isinstance(layer, HasMatrix):
        return layer.matrix()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def set_real_tokens(observers: Iterable[Observer], inputs: Mapping[str, Tensor] | None) -> None:
    """Set the mask of real tokens, `[batch, n]`, from the next batch's inputs; None stands for all tokens."""
    for layer in observers:
        layer.real_tokens = None if inputs is None else inputs[layer.mask_name].bool()


@contextmanager
def observers_disabled(layers: Iterable[Observer]) -> Iterator[None]:
    """Disable observers within the context, for placeholder inputs or repeated forward passes."""
    enabled = [layer for layer in layers if layer.observer_enabled]
    for layer in enabled:
        layer.observer_enabled = False
    try:
        yield
    finally:
        for layer in enabled:
            layer.observer_enabled = True


def converted(network: T) -> T:
    """Return a copy of a network in eval mode with all convertible layers in their exported form."""
    result = copy.deepcopy(network).eval()
    convert(result)
    return result


def convert(network: nn.Module) -> None:
    """Replace all convertible layers by their exported form, in place; shared ones stay shared."""
    forms: dict[int, nn.Module] = {}
    kept = []  # an object that is freed leaves its id to another
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, Convertible):
            kept.append(module)
            if id(module) not in forms:
                forms[id(module)] = module.converted()
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, forms[id(module)].eval())
