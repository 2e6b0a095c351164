"""Running a network over a whole split."""

import math

import torch
from torch import Tensor, nn

from lissom.console import track
from lissom.data.batches import sorted_batches
from lissom.data.encoding import Encoded
from lissom.data.score import score_of
from lissom.models.compressed import logits_of

_BATCH_SIZE = 64


def predict(
    network: nn.Module, data: Encoded, pad: int, precision: torch.dtype | None = None, description: str | None = None
) -> Tensor:
    """Return the logits of every example in its place, `[examples, labels]` float32; dropout off, no gradients.

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
    logits, places = [], []
    batches = sorted_batches(data, _BATCH_SIZE, pad)
    if description is not None:
        batches = track(batches, description, math.ceil(len(data) / _BATCH_SIZE))
    with torch.inference_mode(), autocast:
        for batch in batches:
            logits.append(logits_of(network, batch.to(device)).float().cpu())
            places.append(batch.indices)
    network.train(training)
    return torch.cat(logits)[torch.cat(places).argsort()].clone()


def score(network: nn.Module, data: Encoded, pad: int, precision: torch.dtype | None = None) -> float:
    """Return the accuracy of a network, or its correlation with the numbers to predict."""
    return score_of(predict(network, data, pad, precision).numpy(), data.labels)
