"""The loss against labels. A loss maps a network and a batch to one number, averaged over the batch's examples."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from lissom.data.batches import Batch
from lissom.data.tables import UNLABELLED
from lissom.models.compressed import logits_of

Loss = Callable[[nn.Module, Batch], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in float32; unlabelled examples (-1) add nothing but count in the mean.

    Counting them keeps an example's weight the same in every batch, however many of its neighbours are labelled.

    Args:
        logits: `[batch, labels]`.
        labels: `[batch]`.
    """
    return F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED, reduction="sum") / max(1, len(labels))


def task_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of a batch against its labels."""
    return cross_entropy(logits_of(network, batch), batch.labels)
