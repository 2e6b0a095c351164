"""One step of a training, however it is cut: what the loop asks for, and who does it."""

import copy
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.console import note
from lissom.data.encoding import Encoded
from lissom.models.exits import has_early_exits
from lissom.models.families import family_of
from lissom.models.layers import has_indivisible
from lissom.models.together import members_of
from lissom.parallel.parts import Loss
from lissom.parallel.pipeline import Pipeline
from lissom.parallel.replicas import Replicas
from lissom.parallel.sharding import twin_of
from lissom.parallel.tensor import cut_network
from lissom.parallel.world import Layout, World


class Engine(Protocol):
    """What this process does of every step."""

    module: nn.Module
    """What hooks work on: the network, or the copy of it that is cut."""

    @property
    def layout(self) -> Layout | None:
        """Return how this training is cut, which may not be what was asked for; None for a single process."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this process updates, by their name in the whole network."""
        ...

    def gradients(self, members: NDArray[np.int64]) -> Tensor:
        """Run forward and backward over a batch; return this process's share of the loss."""
        ...

    def clip(self, limit: float) -> None:
        """Scale gradients down to a global norm, each network's its own."""
        ...

    def gather(self) -> None:
        """Bring the weights back into the whole network, on every process."""
        ...

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, dict[str, Tensor]]]:
        """Yield the optimiser's whole state of every parameter, by name, on every process."""
        ...

    def close(self) -> None:
        """Leave the network as it was, but for its weights."""
        ...


def make_engine(
    network: nn.Module,
    loss: Loss,
    data: Encoded,
    pad: int,
    precision: torch.dtype | None,
    world: World | None,
    *,
    needs_internals: bool,
) -> Engine:
    """Return the engine for a training.

    Args:
        network: the whole network, on every process the same.
        loss: of a network and a batch.
        data: the examples.
        pad: id of the padding token.
        precision: autocast type.
        world: the processes; None for this one alone.
        needs_internals: whether the loss needs more than logits: hidden states or attention, which stages of a pipeline
            and the shares of heads do not have in one place. Then those dimensions become replicas.
    """
    if world is None:
        return Replicas(network, network, loss, data, pad, precision, None)
    layout = _layout_for(network, world, needs_internals)
    module, left = network, []
    if layout.params.shard:  # on the same weights until they are spread: never twice as many
        module = twin_of(network)
    elif layout.params.tensor > 1:
        module = copy.deepcopy(network)
    if layout.params.tensor > 1:
        for member in members_of(module):
            assert isinstance(member, PreTrainedModel)
            left += cut_network(member, layout.mesh["tensor"], sequence=layout.params.sequence)
    if left:
        note(f"parallel: not divisible by tensor {layout.params.tensor}, and whole on each process: {', '.join(left)}")
    kind = Pipeline if layout.params.pipeline > 1 else Replicas
    return kind(network, module, loss, data, pad, precision, layout)


def _layout_for(network: nn.Module, world: World, needs_internals: bool) -> Layout:
    """Return the layout that a network and its loss allow, and say so if it is not the one that was asked for."""
    members = members_of(network)
    reasons = []
    if needs_internals:
        reasons.append("the loss needs more than logits")
    if any(has_early_exits(member) for member in members):
        reasons.append("every block has an exit")
    if not all(isinstance(member, PreTrainedModel) and family_of(member).stacks for member in members):
        reasons.append("the network has parts without blocks")
    whole = list(reasons)
    if has_indivisible(network):
        reasons.append("fake-quantised layers are not cut")
    layout = world.layout(tensor=not reasons, pipeline=not whole)
    if layout.params.factors != world.params.factors:
        note(f"parallel: {', '.join(reasons)}: here it is {layout.params.factors}")
    return layout
