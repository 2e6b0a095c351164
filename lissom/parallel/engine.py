"""The interface between the training loop and parallelism: computing and gathering gradients, weights and moments."""

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
from lissom.models.capabilities import limit_of
from lissom.models.exits import has_early_exits
from lissom.models.families import family_of
from lissom.models.layers import has_indivisible
from lissom.models.together import members_of
from lissom.parallel.parts import Loss
from lissom.parallel.pipeline import Pipeline
from lissom.parallel.replicas import Replicas
from lissom.parallel.sharding import copy_sharing_weights
from lissom.parallel.tensor import shard_network
from lissom.parallel.world import Layout, World


class Engine(Protocol):
    """This process's part of every training step."""

    module: nn.Module
    """The module in training, which hooks get: the network, or its sharded copy."""

    @property
    def layout(self) -> Layout | None:
        """Return the layout, which may differ from the params; None for a single process."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this process updates, by their name in the whole network."""
        ...

    def gradients(self, members: NDArray[np.int64]) -> Tensor:
        """Run forward and backward over a batch; return this process's share of the loss."""
        ...

    def clip(self, limit: float) -> None:
        """Clip gradients to a global norm, separately for every member of a `Together`."""
        ...

    def gather(self) -> None:
        """Gather the weights into the whole network, on every process."""
        ...

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, dict[str, Tensor]]]:
        """Yield name and unsharded optimiser state of every parameter, on every process."""
        ...

    def close(self) -> None:
        """Undo all changes to the network except its weights."""
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
        network: the whole network, the same on every process.
        loss: maps a network and a batch to a scalar.
        data: the examples.
        pad: id of the padding token.
        precision: autocast type.
        world: the processes; None for a single process.
        needs_internals: whether the loss needs hidden states or attention scores, which pipeline stages and tensor
            shards do not hold in one place; these dimensions then become replicas.
    """
    if world is None:
        return Replicas(network, network, loss, data, pad, precision, None)
    layout = _layout_for(network, world, needs_internals)
    module, uncut = network, []
    if layout.params.shard:  # shares the weights until they are sharded, so that there are never two copies
        module = copy_sharing_weights(network)
    elif layout.params.tensor > 1:
        module = copy.deepcopy(network)
    if layout.params.tensor > 1:
        for member in members_of(module):
            assert isinstance(member, PreTrainedModel)
            uncut += shard_network(member, layout.mesh["tensor"], sequence=layout.params.sequence)
    if uncut:
        note(f"parallel: not divisible by tensor {layout.params.tensor}, and whole on each process: {', '.join(uncut)}")
    kind = Pipeline if layout.params.pipeline > 1 else Replicas
    return kind(network, module, loss, data, pad, precision, layout)


def _layout_for(network: nn.Module, world: World, needs_internals: bool) -> Layout:
    """Return the layout that a network and its loss allow, and log it if it differs from the params."""
    members = members_of(network)
    reasons = []
    if needs_internals:
        reasons.append("the loss needs more than logits")
    if any(has_early_exits(member) for member in members):
        reasons.append("every block has an exit")
    if not all(isinstance(member, PreTrainedModel) and family_of(member).stacks for member in members):
        reasons.append("the network has parts without blocks")
    pipeline_reasons = list(reasons)
    families = [family_of(member) for member in members if isinstance(member, PreTrainedModel)]
    pipeline_reasons += [limit.reason for family in families if (limit := limit_of(family, "pipeline")) is not None]
    if has_indivisible(network):
        reasons.append("fake-quantised layers are not cut")
    layout = world.layout(tensor=not reasons, pipeline=not pipeline_reasons)
    if layout.params.factors != world.params.factors:
        note(f"parallel: {', '.join(dict.fromkeys([*pipeline_reasons, *reasons]))}: here it is {layout.params.factors}")
    return layout
