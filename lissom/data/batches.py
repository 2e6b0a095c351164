"""Batches of examples of similar length, to reduce padding, shuffled anew in every epoch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.data.encoding import Encoded

_BATCHES_PER_BUCKET = 50


@dataclass(frozen=True)
class Members:
    """The examples of a batch, or of a part of one, from which the sizes of means are counted."""

    indices: NDArray[np.int64]
    """Indices in the data set, `[batch]`."""
    lengths: NDArray[np.int64]
    """Real tokens of every example, `[batch]`."""


Count = Callable[[Members], float]
"""Returns over how many items (examples, tokens, pairs of tokens) of some examples a mean is taken."""


@dataclass(frozen=True)
class Share:
    """Weights of a part's means in the means of the whole batch, relative to the part's share of the examples."""

    part: Members
    whole: Members

    def of(self, count: Count) -> float:
        """Return the weight of a mean over the items that `count` counts; 0 if the whole batch has none."""
        items = count(self.whole)
        return count(self.part) / items / (len(self.part.indices) / len(self.whole.indices)) if items else 0.0


@dataclass(frozen=True)
class Batch:
    """Padded examples."""

    inputs: Mapping[str, Tensor]
    """Inputs by transformers' names, each `[batch, n]` int64: `input_ids`, `attention_mask` (1 for real tokens),
    `token_type_ids`."""
    targets: Tensor
    """`[batch]`, from `Task.targets`."""
    indices: Tensor
    """`[batch]` int64, the examples' indices in the data set: the keys of caches per example."""
    share: Share | None = None
    """Set if this is a part of a larger batch."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ids(self) -> Tensor:
        """Return the token ids, `[batch, n]`."""
        return self.inputs["input_ids"]

    @property
    def mask(self) -> Tensor:
        """Return the attention mask, 1 for real tokens and 0 for padding, `[batch, n]`."""
        return self.inputs["attention_mask"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, index: Tensor) -> "Batch":
        """Return some of the examples."""
        return self._each(lambda tensor: tensor[index])

    def reading(self, ids: Tensor) -> "Batch":
        """Return the batch with other token ids `[batch, n]`."""
        return replace(self, inputs={**self.inputs, "input_ids": ids})

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, targets=change(self.targets), indices=change(self.indices))


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
        inputs={
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "token_type_ids": torch.from_numpy(types),
        },
        targets=torch.from_numpy(data.targets[indices]),
        indices=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
    )


def shuffled_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the example indices of every batch of one epoch, a function of the arguments alone.

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
    data: Encoded, batch_size: int, pad: int, members: NDArray[np.int64] | None = None, multiple: int = 1
) -> Iterator[Batch]:
    """Yield batches of all examples (or of `members`), sorted by length; `pad` and `multiple` as for `collate`."""
    members = np.arange(len(data)) if members is None else members
    order = members[np.argsort(data.lengths[members], kind="stable")]
    for start in range(0, len(order), batch_size):
        yield collate(data, order[start : start + batch_size], pad, multiple)
