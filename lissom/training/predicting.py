"""Running a network over a whole split."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lissom.console import track
from lissom.data.batches import Batch, sorted_batches
from lissom.data.encoding import Encoded
from lissom.models.compressed import logits_of
from lissom.tasks.meter import Meter
from lissom.tasks.metric import Metric
from lissom.tasks.task import Task

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Scorer:
    """Computes the dev score of a network as it is, and knows what it is in."""

    metric: Metric
    value: Callable[[], float]

    def __call__(self) -> float:
        """Return the score."""
        return self.value()


def predict(
    network: nn.Module, data: Encoded, pad: int, precision: torch.dtype | None = None, description: str | None = None
) -> Tensor:
    """Return the logits of every example in its place, `[examples, labels]` float32; dropout off, no gradients.

    Where several processes run a stage, all of them must call this: each computes some of the batches.

    Args:
        network: the network, left in the mode it was in.
        data: the examples.
        pad: id of the padding token.
        precision: autocast type; None computes in the weights' own type.
        description: what to call the work in a progress bar; None shows none.
    """
    device = next(network.parameters()).device
    logits: Tensor | None = None
    batches: Iterable[tuple[int, Batch]] = enumerate(sorted_batches(data, _BATCH_SIZE, pad))
    if description is not None:
        batches = track(batches, description, math.ceil(len(data) / _BATCH_SIZE))
    processes, rank = _place()
    with _asking(network, precision):
        for number, batch in batches:
            if number % processes == rank or logits is None:
                found = logits_of(network, batch.to(device)).float()
                logits = torch.zeros(len(data), found.shape[1], device=device) if logits is None else logits
                if number % processes == rank:
                    logits[batch.indices.to(device)] = found
        assert logits is not None, "there are no examples"
        if processes > 1:
            dist.all_reduce(logits)  # every example was computed by one process, and is 0 elsewhere
    return logits.cpu().clone()


def score(network: nn.Module, data: Encoded, pad: int, task: Task, precision: torch.dtype | None = None) -> float:
    """Return what models of the task are judged by, over a split whose targets are all known; as for `predict`."""
    device, meter = next(network.parameters()).device, task.meter()
    processes, rank = _place()
    with _asking(network, precision):
        for number, batch in enumerate(sorted_batches(data, _BATCH_SIZE, pad)):
            if number % processes == rank:
                meter.add(logits_of(network, batch.to(device)).float().cpu().numpy(), batch.targets.numpy())
    if processes > 1:
        meters: list[Meter | None] = [None] * processes
        dist.all_gather_object(meters, meter)
        meter = task.meter()
        for part in meters:
            assert part is not None
            meter.merge(part)
    return meter.result()


def _place() -> tuple[int, int]:
    """Return the number of processes that share the work, and the number of this one."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


@contextmanager
def _asking(network: nn.Module, precision: torch.dtype | None) -> Iterator[None]:
    """Put a network into eval mode, without gradients, while the context lasts."""
    device, training = next(network.parameters()).device, network.training
    network.eval()
    autocast = torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None)
    with torch.inference_mode(), autocast:
        yield
    network.train(training)
