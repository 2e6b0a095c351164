"""The processes of a training and the rank of this one. They are started by torchrun (`lissom.parallel.launch`).

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
    """All processes of a stage, which run the same code on the same params."""

    params: ParallelParams
    rank: int
    local_rank: int
    watch: Watch
    control: dist.ProcessGroup
    """A gloo group of the same processes, for small CPU messages."""
    _meshes: dict[tuple[int, int, int], DeviceMesh] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and logs."""
        return self.rank == 0

    def layout(self, *, tensor: bool = True, pipeline: bool = True) -> "Layout":
        """Return the layout of a training; dimensions set to False are replaced by more replicas."""
        params = self.params
        tensor_size = params.tensor if tensor else 1
        pipeline_size = params.pipeline if pipeline else 1
        shape = (params.world // (tensor_size * pipeline_size), pipeline_size, tensor_size)
        if shape not in self._meshes:
            self._meshes[shape] = init_device_mesh(device_type(), shape, mesh_dim_names=_DIMENSIONS)
        update = {"data": shape[0], "pipeline": shape[1], "tensor": shape[2]}
        return Layout(params.model_copy(update=update), self._meshes[shape], self)

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, *values: bool) -> list[bool]:
        """Return, for each value, whether it is true on any process; does not synchronise with the device."""
        flags = torch.tensor([float(value) for value in values])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        return [bool(flag) for flag in flags]

    def gather(self, value: T | None) -> list[T]:
        """Gather a value from every process, without those that are None."""
        values: list[T | None] = [None] * self.params.world
        dist.all_gather_object(values, value, group=self.control)
        return [item for item in values if item is not None]

    def check_equal(self, value: str, name: str) -> None:
        """Raise `RuntimeError` unless `value` is equal on all processes; `name` describes it in the message."""
        values = self.gather(value)
        if len(set(values)) > 1:
            different = [rank for rank, item in enumerate(values) if item != values[0]]
            raise RuntimeError(
                f"{name} of rank {different[0]} is not that of rank 0: the processes do not run the same"
            )


@dataclass(frozen=True)
class Layout:
    """The layout of one training, and this process's coordinates in it."""

    params: ParallelParams
    mesh: DeviceMesh
    world: World

    def place(self, dimension: str) -> int:
        """Return this process's coordinate along a dimension: `data`, `pipeline` or `tensor`."""
        return int(self.mesh.get_local_rank(dimension))

    def group(self, dimension: str) -> dist.ProcessGroup:
        """Return the processes that differ from this one along one dimension only."""
        return self.mesh.get_group(dimension)


def device_type() -> str:
    """Return the type of the devices that trainings run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def join(params: ParallelParams) -> Iterator[World]:
    """Initialise the process group, and destroy it at the end."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    limit = datetime.timedelta(seconds=params.timeout_seconds + 60)  # the watchdog ends the job earlier
    # Connecting takes little time or fails, and torchrun then tries again.
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
