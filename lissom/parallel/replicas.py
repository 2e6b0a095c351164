"""Data parallelism: every replica computes the gradients of its parts of a batch; a single process computes all parts.

DDP all-reduces gradients during the backward pass; FSDP2 also shards the weights; with tensor parallelism the
all-reduce over replicas follows the backward pass. Parts are weighted by their examples (`lissom.parallel.parts`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.data.encoding import Encoded
from lissom.models.families import family_of
from lissom.models.layers import Observer, observers_disabled, observers_of, set_real_tokens
from lissom.models.together import members_of
from lissom.parallel.gradients import all_reduce_gradients, clip, full_tensor, reduce_partial
from lissom.parallel.parts import Loss, split_batch
from lissom.parallel.sharding import gather, release_parameters, shard
from lissom.parallel.world import Layout


class Replicas:
    """Engine of one replica, or of a single process.

    Args:
        network: the whole network.
        module: the module in training: the network, or its sharded copy.
        loss: maps a network and a batch to a scalar.
        data: the examples.
        pad: id of the padding token.
        precision: autocast type.
        layout: None for a single process.
    """

    def __init__(
        self,
        network: nn.Module,
        module: nn.Module,
        loss: Loss,
        data: Encoded,
        pad: int,
        precision: torch.dtype | None,
        layout: Layout | None,
    ) -> None:
        self.module = module
        self.layout = layout
        self._network, self._precision = network, precision
        self._data, self._pad = data, pad
        self._device = next(module.parameters()).device
        self._compute: nn.Module = _Compute(module, loss)
        self._observers = observers_of(module)
        self._parts = 1 if layout is None else layout.params.parts
        self._own: range = range(1)
        self._multiple = 1
        if layout is None:
            return
        params = layout.params
        self._own = range(layout.place("data") * params.microbatches, (layout.place("data") + 1) * params.microbatches)
        self._multiple = params.tensor if params.sequence else 1
        if params.recompute:
            recompute_blocks(module)
        if params.shard:
            shard(self._compute, module, layout.mesh["data"], training=True)
        elif params.data > 1 and params.tensor == 1:
            # Exits and poolers do not get a gradient in every step.
            self._compute = DistributedDataParallel(
                self._compute,
                process_group=layout.group("data"),
                forward_sync_buffers=False,
                find_unused_parameters=True,
            )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this process updates, by their name in the whole network."""
        return dict(self.module.named_parameters())

    def gradients(self, members: NDArray[np.int64]) -> Tensor:
        """Run forward and backward over this replica's parts; return its share of the loss."""
        if isinstance(self._compute, FSDPModule):
            release_parameters(self._network)  # the weights are sharded until they are gathered
        shares = []
        world_size = 1
        if self.layout is not None and isinstance(self._compute, DistributedDataParallel | FSDPModule):
            world_size = self.layout.params.data
        for number, part in enumerate(
            split_batch(self._data, members, self._pad, self._parts, self._own, self._multiple)
        ):
            with self._gradient_sync(number + 1 < len(self._own)):
                self._report(waits=False, on=f"forward of part {number + 1} of {len(self._own)}")
                use_autocast = self._precision is not None
                with torch.autocast(self._device.type, dtype=self._precision or torch.bfloat16, enabled=use_autocast):
                    share = self._compute(part.batch.to(self._device)) * part.weight
                self._report(waits=True, on="backward pass and the gradients of the others")
                (share * world_size).backward()
                shares.append(share.detach())
        self._finish()
        return torch.stack(shares).sum() if len(shares) > 1 else shares[0]

    def clip(self, limit: float) -> None:
        """Clip gradients to a global norm, separately for every member of a `Together`."""
        for member in members_of(self.module):
            clip(member.parameters(), limit)

    def gather(self) -> None:
        """Gather the weights into the whole network, on every process."""
        if self.module is not self._network:
            gather(self._network, self.module)

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield name and unsharded optimiser state of every parameter, on every process."""
        for name, parameter in self.parameters().items():
            if parameter in optimizer.state:
                yield name, {key: full_tensor(value) for key, value in optimizer.state[parameter].items()}

    def close(self) -> None:
        """Undo all changes to the network except its weights."""
        set_real_tokens(self._observers, None)
        if self.layout is not None:
            self.layout.world.watch.disarm()
            keep_activations(self._network)

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients of all parts but the last are added up here, and exchanged once."""
        if isinstance(self._compute, DistributedDataParallel):
            return self._compute.no_sync() if is_last else nullcontext()
        if isinstance(self._compute, FSDPModule):
            self._compute.set_requires_gradient_sync(not is_last)
        return nullcontext()

    def _finish(self) -> None:
        layout = self.layout
        replicas = None if layout is None or layout.params.data == 1 else layout.group("data")
        if layout is not None and layout.params.tensor > 1:
            reduce_partial(self.module.parameters())
            if replicas is not None:
                all_reduce_gradients(self.module.parameters(), replicas)
        update_ranges(self._observers, replicas)

    def _report(self, *, waits: bool, on: str) -> None:
        if self.layout is not None:
            watch = self.layout.world.watch
            (watch.waiting if waits else watch.working)(on)


class _Compute(nn.Module):
    """Network and loss as one module, which DDP and FSDP wrap."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        self._observers = observers_of(network)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss."""
        set_real_tokens(self._observers, batch.inputs)
        return self._loss(self.network, batch)


def recompute_blocks(network: nn.Module) -> None:
    """Enable activation checkpointing for every block; dropout masks are reproduced in the backward pass."""
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and family_of(member).stacks:
            layers = observers_of(member)  # torch.compile does not support a context function, so set it only if needed
            contexts = {"context_fn": partial(_recompute_contexts, layers)} if layers else {}
            member.activation_checkpointing_enable({"use_reentrant": False, **contexts})


def _recompute_contexts(layers: list[Observer]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), observers_disabled(layers)


def keep_activations(network: nn.Module) -> None:
    """Undo `recompute_blocks`."""
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and member.is_activation_checkpointing:
            member.activation_checkpointing_disable()


def update_ranges(layers: list[Observer], group: dist.ProcessGroup | None) -> None:
    """Update the input ranges of observer layers after a step, with ranges reduced over all replicas."""
    ranges = [(layer, *layer.pending_range) for layer in layers if layer.pending_range is not None]
    if ranges and group is not None:
        extremes = torch.stack([torch.stack((-low, high)) for _, low, high in ranges])
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        for (layer, *_), (low, high) in zip(ranges, extremes, strict=True):
            layer.pending_range = -low, high
    for layer in layers:
        layer.update_range()
