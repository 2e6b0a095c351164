"""Data parallelism: every replica works on its parts of a batch. Alone, that is all parts, one after the other.

DDP adds up gradients while the backward pass runs; FSDP2 also spreads the weights; where layers are cut (`tensor`), the
sum over replicas follows the backward pass. Weighted by examples, ragged parts add up to the whole batch's gradient.
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
from lissom.parallel.gradients import clip, complete, sum_over, whole
from lissom.parallel.parts import Loss, cut_batch
from lissom.parallel.sharding import gather, let_go, shard
from lissom.parallel.world import Layout


class Replicas:
    """One replica among others, or the only one.

    Args:
        network: the whole network.
        module: what is trained: the same, or a copy that is cut.
        loss: of a network and a batch.
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
            # Which parameters take part is found in every step: exits and poolers do not always.
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
            let_go(self._network)  # spread weights are whole nowhere until they are gathered
        shares = []
        averaged = 1
        if self.layout is not None and isinstance(self._compute, DistributedDataParallel | FSDPModule):
            averaged = self.layout.params.data
        for number, part in enumerate(
            cut_batch(self._data, members, self._pad, self._parts, self._own, self._multiple)
        ):
            with self._keeping_to_itself(number + 1 < len(self._own)):
                self._say(waits=False, on=f"forward of part {number + 1} of {len(self._own)}")
                enabled = self._precision is not None
                with torch.autocast(self._device.type, dtype=self._precision or torch.bfloat16, enabled=enabled):
                    share = self._compute(part.batch.to(self._device)) * part.weight
                self._say(waits=True, on="backward pass and the gradients of the others")
                (share * averaged).backward()
                shares.append(share.detach())
        self._finish()
        return torch.stack(shares).sum() if len(shares) > 1 else shares[0]

    def clip(self, limit: float) -> None:
        """Scale gradients down to a global norm, each network's its own."""
        for member in members_of(self.module):
            clip(member.parameters(), limit)

    def gather(self) -> None:
        """Bring the weights back into the whole network, on every process."""
        if self.module is not self._network:
            gather(self._network, self.module)

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield the optimiser's whole state of every parameter, by name, on every process."""
        for name, parameter in self.parameters().items():
            if parameter in optimizer.state:
                yield name, {key: whole(value) for key, value in optimizer.state[parameter].items()}

    def close(self) -> None:
        """Leave the network as it was, but for its weights."""
        set_real_tokens(self._observers, None)
        if self.layout is not None:
            self.layout.world.watch.rest()
            keep_activations(self._network)

    def _keeping_to_itself(self, wanted: bool) -> AbstractContextManager[Any]:
        """Gradients of all parts but the last are added up here, and exchanged once."""
        if isinstance(self._compute, DistributedDataParallel):
            return self._compute.no_sync() if wanted else nullcontext()
        if isinstance(self._compute, FSDPModule):
            self._compute.set_requires_gradient_sync(not wanted)
        return nullcontext()

    def _finish(self) -> None:
        layout = self.layout
        replicas = None if layout is None or layout.params.data == 1 else layout.group("data")
        if layout is not None and layout.params.tensor > 1:
            complete(self.module.parameters())
            if replicas is not None:
                sum_over(self.module.parameters(), replicas)
        update_ranges(self._observers, replicas)

    def _say(self, *, waits: bool, on: str) -> None:
        if self.layout is not None:
            watch = self.layout.world.watch
            (watch.waiting if waits else watch.working)(on)


class _Compute(nn.Module):
    """Network and loss as one module: what DDP and FSDP put their hooks on."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self._loss = loss
        self._observers = observers_of(network)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss."""
        set_real_tokens(self._observers, batch.mask)
        return self._loss(self.network, batch)


def recompute_blocks(network: nn.Module) -> None:
    """Let every block keep only its input, and compute the rest again in the backward pass, dropout included."""
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and family_of(member).stacks:
            layers = observers_of(member)  # generated kernels would stumble over a context that is not needed
            surrounded = {"context_fn": partial(_again, layers)} if layers else {}
            member.activation_checkpointing_enable({"use_reentrant": False, **surrounded})


def _again(layers: list[Observer]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds a block's first pass and its second."""
    return nullcontext(), observers_disabled(layers)


def keep_activations(network: nn.Module) -> None:
    """Undo `recompute_blocks`."""
    for member in members_of(network):
        if isinstance(member, PreTrainedModel) and member.is_activation_checkpointing:
            member.activation_checkpointing_disable()


def update_ranges(layers: list[Observer], group: dist.ProcessGroup | None) -> None:
    """Move the input ranges of quantised layers towards what the step has seen, on all replicas together."""
    ranges = [(layer, *layer.pending_range) for layer in layers if layer.pending_range is not None]
    if ranges and group is not None:
        extremes = torch.stack([torch.stack((-low, high)) for _, low, high in ranges])
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
        for (layer, *_), (low, high) in zip(ranges, extremes, strict=True):
            layer.pending_range = -low, high
    for layer in layers:
        layer.update_range()
