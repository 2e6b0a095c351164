"""The loss against labels. A loss maps a network and a batch to one number, averaged over the batch's examples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.data.batches import Batch
from lissom.data.labels import UNLABELLED
from lissom.models.compressed import logits_of

Loss = Callable[[nn.Module, Batch], Tensor]


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, or the squared error of a number, in float32, averaged over examples.

    Unlabelled examples (-1, or NaN) add nothing but count in the mean: so an example's weight is the same in every
    batch, however many of its neighbours are labelled.

    Args:
        logits: `[batch, labels]`, or `[batch, 1]` for a number.
        labels: `[batch]`, indices or numbers.
    """
    if labels.is_floating_point():
        # Masked with `where` before the square: NaN times zero would be NaN, in the gradient too.
        error = torch.where(labels.isnan(), 0.0, logits.float().squeeze(-1) - labels.nan_to_num())
        return error.square().sum() / max(1, len(labels))
    return F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED, reduction="sum") / max(1, len(labels))


def task_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of a batch against its labels."""
    return label_loss(logits_of(network, batch), batch.labels)
