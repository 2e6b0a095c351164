"""The processes of a training and the place of this one among them. torchrun started them (`lissom.parallel.launch`).

Ranks are numbered with `tensor` innermost (neighbours share a machine), then `pipeline`, then `data`.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from lissom.parallel.config import ParallelParams
from lissom.parallel.watch import Watch

T = TypeVar("T")

_CONNECT_SECONDS = 60.0
_DIMENSIONS = ("data", "pipeline", "tensor")


@dataclass
class World:
    """All processes of a stage; every one of them runs the same code on the same params."""

    params: ParallelParams
    rank: int
    local_rank: int
    watch: Watch
    control: dist.ProcessGroup
    """The same processes, for small messages between their processors."""
    _meshes: dict[tuple[int, int, int], DeviceMesh] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes, logs and talks."""
        return self.rank == 0

    def layout(self, *, tensor: bool = True, pipeline: bool = True) -> "Layout":
        """Return the layout of a training; a dimension that it cannot be cut along becomes more replicas."""
        params = self.params
        tensor_size = params.tensor if tensor else 1
        pipeline_size = params.pipeline if pipeline else 1
        shape = (params.world // (tensor_size * pipeline_size), pipeline_size, tensor_size)
        if shape not in self._meshes:
            self._meshes[shape] = init_device_mesh(device_type(), shape, mesh_dim_names=_DIMENSIONS)
        update = {"data": shape[0], "pipeline": shape[1], "tensor": shape[2]}
        return Layout(params.model_copy(update=update), self._meshes[shape], self)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def any(self, *values: bool) -> list[bool]:
        """Tell which of these hold for any process; without waiting for the device's work."""
        flags = torch.tensor([float(value) for value in values])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in flags]

    def collect(self, value: T | None) -> list[T]:
        """Return what the processes have to tell, those left out that have nothing."""
        found: list[T | None] = [None] * self.params.world
        dist.all_gather_object(found, value, group=self.control)
        return [one for one in found if one is not None]

    def agree(self, value: str, what: str) -> None:
        """Raise `RuntimeError` unless all processes have the same value."""
        found = self.collect(value)
        if len(set(found)) > 1:
            different = [rank for rank, one in enumerate(found) if one != found[0]]
            raise RuntimeError(
                f"{what} of rank {different[0]} is not that of rank 0: the processes do not run the same"
            )


@dataclass(frozen=True)
class Layout:
    """How one training is cut, and this process's part of it."""

    params: ParallelParams
    mesh: DeviceMesh
    world: World

    def place(self, dimension: str) -> int:
        """Return this process's number along a dimension: `data`, `pipeline` or `tensor`."""
        return int(self.mesh.get_local_rank(dimension))

    def group(self, dimension: str) -> dist.ProcessGroup:
        """Return the processes that differ from this one along one dimension only."""
        return self.mesh.get_group(dimension)


def device_type() -> str:
    """Return the type of the devices that trainings run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def join(params: ParallelParams) -> Iterator[World]:
    """Join the other processes, and leave them at the end."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    limit = datetime.timedelta(seconds=params.timeout_seconds + 60)  # the watch is earlier, and names who is late
    # Connecting is soon done or never: then torchrun tries again.
    first = min(limit, datetime.timedelta(seconds=_CONNECT_SECONDS))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=first)
    control = dist.new_group(backend="gloo", timeout=first)
    for group in (dist.group.WORLD, control):
        _set_pg_timeout(limit, group)
    try:
        with Watch(rank, params) as watch:
            yield World(params, rank, local_rank, watch, control)
    finally:
        dist.destroy_process_group()
