"""What a layer may say of itself, so that trainings, parallelism and exports never name a technique's class."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


@runtime_checkable
class Observing(Protocol):
    """A layer that watches the values that pass through it, and draws conclusions between steps, never within one.

    So a step is the same in however many parts it is computed.
    """

    observing: bool
    """Whether it watches."""
    real_tokens: Tensor | None
    """`[batch, n]`: which tokens of the present batch are no padding; None watches all."""
    seen: tuple[Tensor, Tensor] | None
    """Least and greatest value since the last conclusion, scalars."""

    def settle(self) -> None:
        """Draw the conclusion."""
        ...


@runtime_checkable
class Convertible(Protocol):
    """A layer that trains in one form and is exported in another, which computes the same."""

    def converted(self) -> nn.Module:
        """Return the exported form."""
        ...


class Indivisible:
    """Base of layers that tensor parallelism cannot share out and torch.compile cannot trace: they stay whole."""


def observers_of(network: nn.Module) -> list[Observing]:
    """Return the layers of a network that observe."""
    return [module for module in network.modules() if isinstance(module, Observing)]


def has_indivisible(network: nn.Module) -> bool:
    """Return whether a network has layers that must stay whole."""
    return any(isinstance(module, Indivisible) for module in network.modules())


def is_convertible(network: nn.Module) -> bool:
    """Return whether a network has layers whose exported form is another."""
    return any(isinstance(module, Convertible) for module in network.modules())


def tell_real_tokens(observers: Iterable[Observing], mask: Tensor | None) -> None:
    """Tell layers which tokens of the batch that comes next are real, `[batch, n]`; None for all."""
    for layer in observers:
        layer.real_tokens = None if mask is None else mask.bool()


@contextmanager
def unobserved(layers: Iterable[Observing]) -> Iterator[None]:
    """Let layers run on what is not to be observed: values of no meaning, or the same ones again."""
    observing = [layer for layer in layers if layer.observing]
    for layer in observing:
        layer.observing = False
    try:
        yield
    finally:
        for layer in observing:
            layer.observing = True


def converted(network: T) -> T:
    """Return a copy of a network in eval mode whose convertible layers have their exported form."""
    result = copy.deepcopy(network).eval()
    for path, module in list(result.named_modules()):
        if isinstance(module, Convertible):
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, module.converted())
    return result
