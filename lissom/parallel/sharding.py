"""Weights in pieces (FSDP2): each process holds its share of every tensor, and puts a block together when it is due.

What is sharded is a second network on the first one's weights, so that there are never two copies. The first is left
without values until they are gathered again.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from lissom.models.families import blocks_of, family_of
from lissom.models.together import members_of
from lissom.parallel.gradients import whole
from lissom.parallel.world import World


def twin_of(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the same weights."""
    return copy.deepcopy(
        network, {id(one): nn.Parameter(one.detach(), one.requires_grad) for one in network.parameters()}
    )


def shard(module: nn.Module, network: nn.Module, mesh: DeviceMesh, *, training: bool) -> None:
    """Spread the weights of a module over a mesh, in place; the blocks of the network within it one by one.

    What is outside of blocks stays together between forward and backward pass, unless there is none.
    """
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and family_of(member).stacks:
            for block in blocks_of(member):
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=not training)


def let_go(network: nn.Module) -> None:
    """Leave a network without values."""
    for parameter in network.parameters():
        parameter.data = parameter.new_empty(0)


def gather(network: nn.Module, pieces: nn.Module) -> None:
    """Bring weights that are in pieces back into the whole network, on every process."""
    own = pieces.state_dict()
    for name, tensor in network.state_dict(keep_vars=True).items():
        weights = whole(own[name])
        if tensor.shape != weights.shape:
            tensor.data = torch.empty_like(weights)
        tensor.data.copy_(weights)


@contextmanager
def sharded(network: PreTrainedModel, world: World | None) -> Iterator[PreTrainedModel]:
    """Yield a network that is only asked, its weights spread over all processes if params say so (`shard`).

    Every process must ask it equally often. After an error weights are not gathered: the others may not be there.
    """
    if world is None or not world.params.shard:
        yield network
        return
    pieces = twin_of(network)
    assert isinstance(pieces, PreTrainedModel)
    mesh = world.layout(tensor=False, pipeline=False).mesh["data"]
    shard(pieces, pieces, mesh, training=False)
    let_go(network)
    yield pieces
    gather(network, pieces)
