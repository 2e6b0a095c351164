"""Sharded weights (FSDP2): each process holds a shard of every tensor, and gathers a block when it is executed.

The sharded network is a copy that shares the weights of the original, so that there are never two copies of the
weights. The parameters of the original are empty until the weights are gathered again.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from lissom.models.families import family_of
from lissom.models.sites import blocks_of
from lissom.models.together import members_of
from lissom.parallel.gradients import full_tensor
from lissom.parallel.world import World


def copy_sharing_weights(network: nn.Module) -> nn.Module:
    """Return a copy of a network that shares its weights."""
    return copy.deepcopy(
        network,
        {
            id(parameter): nn.Parameter(parameter.detach(), parameter.requires_grad)
            for parameter in network.parameters()
        },
    )


def shard(module: nn.Module, network: nn.Module, mesh: DeviceMesh, *, training: bool) -> None:
    """Shard the weights of a module over a mesh in place; each block of the network within it is a unit.

    In training, weights outside the blocks stay gathered between forward and backward pass.
    """
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and family_of(member).stacks:
            for block in blocks_of(member):
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=not training)


def release_parameters(network: nn.Module) -> None:
    """Replace the parameters of a network by empty tensors."""
    for parameter in network.parameters():
        parameter.data = parameter.new_empty(0)


def gather(network: nn.Module, pieces: nn.Module) -> None:
    """Gather sharded weights into the whole network, on every process."""
    shards = pieces.state_dict()
    for name, tensor in network.state_dict(keep_vars=True).items():
        weights = full_tensor(shards[name])
        if tensor.shape != weights.shape:
            tensor.data = torch.empty_like(weights)
        tensor.data.copy_(weights)


@contextmanager
def sharded(network: PreTrainedModel, world: World | None) -> Iterator[PreTrainedModel]:
    """Yield a network for inference, with its weights sharded over all processes if params say so (`shard`).

    Every process must call it equally often. After an error the weights are not gathered, since processes may be gone.
    """
    if world is None or not world.params.shard:
        yield network
        return
    pieces = copy_sharing_weights(network)
    assert isinstance(pieces, PreTrainedModel)
    mesh = world.layout(tensor=False, pipeline=False).mesh["data"]
    shard(pieces, pieces, mesh, training=False)
    release_parameters(network)
    yield pieces
    gather(network, pieces)
