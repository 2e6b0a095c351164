"""Protocols of layers, so that trainings, parallelism and exports need not know a technique's classes."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

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


class Indivisible:
    """Base of layers that tensor parallelism cannot shard and torch.compile cannot trace."""


def observers_of(network: nn.Module) -> list[Observer]:
    """Return the observer layers of a network."""
    return [module for module in network.modules() if isinstance(module, Observer)]


def has_indivisible(network: nn.Module) -> bool:
    """Return whether a network has `Indivisible` layers."""
    return any(isinstance(module, Indivisible) for module in network.modules())


def is_convertible(network: nn.Module) -> bool:
    """Return whether a network has `Convertible` layers."""
    return any(isinstance(module, Convertible) for module in network.modules())


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
    for path, module in list(result.named_modules()):
        if isinstance(module, Convertible):
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, module.converted())
    return result
