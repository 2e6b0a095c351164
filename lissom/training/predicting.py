"""Running a network over a whole split."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lissom.console import track
from lissom.data.batches import Batch, sorted_batches
from lissom.data.encoding import Encoded
from lissom.data.score import score_of
from lissom.models.compressed import logits_of

_BATCH_SIZE = 64


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
    training = network.training
    network.eval()
    autocast = torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None)
    logits: Tensor | None = None
    batches: Iterable[tuple[int, Batch]] = enumerate(sorted_batches(data, _BATCH_SIZE, pad))
    if description is not None:
        batches = track(batches, description, math.ceil(len(data) / _BATCH_SIZE))
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    with torch.inference_mode(), autocast:
        for number, batch in batches:
            if number % processes == rank or logits is None:
                found = logits_of(network, batch.to(device)).float()
                logits = torch.zeros(len(data), found.shape[1], device=device) if logits is None else logits
                if number % processes == rank:
                    logits[batch.indices.to(device)] = found
        assert logits is not None, "there are no examples"
        if processes > 1:
            dist.all_reduce(logits)  # every example was computed by one process, and is 0 elsewhere
    network.train(training)
    return logits.cpu().clone()


def score(network: nn.Module, data: Encoded, pad: int, precision: torch.dtype | None = None) -> float:
    """Return the accuracy of a network, or its correlation with the numbers to predict."""
    return score_of(predict(network, data, pad, precision).numpy(), data.labels)
