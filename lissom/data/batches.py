"""Batches of examples of similar length: little padding, yet a new order in every epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.data.encoding import Encoded

_BATCHES_PER_BUCKET = 50


@dataclass(frozen=True)
class Batch:
    """Padded examples."""

    input_ids: Tensor
    """`[batch, n]` int64."""
    attention_mask: Tensor
    """`[batch, n]` int64, 1 for real tokens."""
    token_type_ids: Tensor
    """`[batch, n]` int64."""
    labels: Tensor
    """`[batch]`: int64 indices of labels, -1 for unlabelled examples; or float32 numbers to predict, NaN for those."""
    indices: Tensor
    """`[batch]` int64, the examples' positions in the data set: the key of anything cached per example."""
    token_weight: float = 1.0
    """For a part of a batch: what a mean over its tokens counts for, where a mean over its examples counts for 1."""
    pair_weight: float = 1.0
    """The same for a mean over its pairs of tokens."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, index: Tensor) -> "Batch":
        """Return some of the examples."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in _TENSORS}
        return replace(self, **changed)


_TENSORS = ("input_ids", "attention_mask", "token_type_ids", "labels", "indices")


def collate(data: Encoded, indices: NDArray[np.int64], pad: int, multiple: int = 1) -> Batch:
    """Pad the examples at `indices` to the longest of them, or to the next multiple of a number of tokens."""
    lengths = data.lengths[indices]
    shape = (len(indices), -(-int(lengths.max()) // multiple) * multiple)
    ids, types = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        start = data.offsets[index]
        ids[row, :length] = data.tokens[start : start + length]
        types[row, :length] = data.types[start : start + length]
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=torch.from_numpy(types),
        labels=torch.from_numpy(data.labels[indices]),
        indices=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
    )


def shuffled_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the example numbers of every batch of one epoch, a function of its arguments alone.

    Examples are shuffled, sorted by length within buckets of 50 batches, cut into batches, and the batches
    shuffled: every example once, the last batch possibly smaller.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    bucket = batch_size * _BATCHES_PER_BUCKET
    batches = []
    for start in range(0, len(order), bucket):
        members = order[start : start + bucket]
        members = members[np.argsort(lengths[members], kind="stable")]
        batches += [members[at : at + batch_size] for at in range(0, len(members), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def sorted_batches(
    data: Encoded, batch_size: int, pad: int, members: NDArray[np.int64] | None = None
) -> Iterator[Batch]:
    """Yield every example (of `members`) once, shortest first: the order for evaluation."""
    members = np.arange(len(data)) if members is None else members
    order = members[np.argsort(data.lengths[members], kind="stable")]
    for start in range(0, len(order), batch_size):
        yield collate(data, order[start : start + batch_size], pad)
