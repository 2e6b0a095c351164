"""Running a network over a whole split."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.console import track
from lissom.data.batches import Batch, examples_at_once, sorted_batches
from lissom.data.encoding import Encoded
from lissom.errors import DataError
from lissom.models.compressed import logits_of
from lissom.models.generation import TorchModel
from lissom.tasks.meter import Meter
from lissom.tasks.metric import Metric
from lissom.tasks.task import Task

_BATCH_SIZE = 64


@dataclass(frozen=True)
class Scorer:
    """Computes the dev score of a network's current weights, in units of `metric`."""

    metric: Metric
    value: Callable[[], float]

    def __call__(self) -> float:
        """Return the score."""
        return self.value()


def predict(
    network: nn.Module,
    data: Encoded,
    pad: int,
    precision: torch.dtype | None = None,
    description: str | None = None,
    keep: Callable[[Tensor], Tensor] = lambda outputs: outputs,
) -> Tensor:
    """Return the logits of every row of targets, in the order of `data`, `[rows, labels]` float32.

    Runs in eval mode without gradients. Where several processes run a stage, all of them must call this function: each
    computes some of the batches.

    Args:
        network: the network; its training mode is restored afterwards.
        data: the examples.
        pad: id of the padding token.
        precision: autocast type; None computes in the type of the weights.
        description: label of the progress bar; None shows none.
        keep: what to return of the logits `[rows, labels]` of a batch, `[rows, ...]`.
    """
    device = next(network.parameters()).device
    logits: Tensor | None = None
    size = examples_at_once(data, _BATCH_SIZE, _outputs_of(network))
    batches: Iterable[tuple[int, Batch]] = enumerate(sorted_batches(data, size, pad))
    if description is not None:
        batches = track(batches, description, math.ceil(len(data) / size))
    processes, rank = _processes()
    with _inference(network, precision):
        for number, batch in batches:
            if number % processes == rank or logits is None:
                outputs = keep(logits_of(network, batch.to(device)).float())
                logits = torch.zeros(len(data.targets), outputs.shape[1], device=device) if logits is None else logits
                if number % processes == rank:
                    logits[batch.row_indices.to(device)] = outputs
        if logits is None:
            raise DataError("there are no examples to predict")
        if processes > 1:
            dist.all_reduce(logits)  # every row was computed by one process, and is 0 elsewhere
    return logits.cpu().clone()


def score(network: PreTrainedModel, data: Encoded, pad: int, task: Task, precision: torch.dtype | None = None) -> float:
    """Return the task's metric over a fully labelled split; arguments as for `predict`.

    Raises:
        DataError: there are no examples.
    """
    if not len(data):
        raise DataError("there are no examples to score the model on")
    device, meter, judged = next(network.parameters()).device, task.meter(), data.judged
    model = TorchModel(network, task.max_length)
    processes, rank = _processes()
    with _inference(network, precision):
        size = _BATCH_SIZE if task.writes_texts else examples_at_once(data, _BATCH_SIZE, _outputs_of(network))
        for number, batch in enumerate(sorted_batches(data, size, pad)):
            if number % processes == rank:
                answers = task.answers(model, batch.to(device), data)
                meter.add(answers, judged.targets[judged.rows_of(batch.indices.numpy())])
    if processes > 1:
        meters: list[Meter | None] = [None] * processes
        dist.all_gather_object(meters, meter)
        meter = task.meter()
        for part in meters:
            assert part is not None
            meter.merge(part)
    return meter.result()


def _outputs_of(network: nn.Module) -> int:
    """Return the numbers that a network puts out for every token: a distribution over its vocabulary, or few."""
    if not isinstance(network, PreTrainedModel) or network.get_output_embeddings() is None:
        return 1
    return int(network.config.vocab_size)


def _processes() -> tuple[int, int]:
    """Return the world size and this process's rank; `(1, 0)` without a process group."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


@contextmanager
def _inference(network: nn.Module, precision: torch.dtype | None) -> Iterator[None]:
    """Run a network in eval mode without gradients within the context."""
    device, training = next(network.parameters()).device, network.training
    network.eval()
    autocast = torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None)
    with torch.inference_mode(), autocast:
        yield
    network.train(training)
