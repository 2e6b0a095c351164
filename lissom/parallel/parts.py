"""Splitting a batch into parts for processes and micro-batches, with the weight of each part.

A loss is a mean over its batch. Every part's mean is weighted by its share of the examples (means over tokens, pairs or
other items by theirs), so that the gradients of parts of any sizes add up to the gradient of the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lissom.data.batches import Batch, Share, collate, members_of
from lissom.data.encoding import Encoded

Loss = Callable[[nn.Module, Batch], Tensor]
"""Maps a network and a batch, or a part of one, to a mean."""


@dataclass(frozen=True)
class Part:
    """Some of the examples of a batch."""

    batch: Batch
    weight: float
    """Share of the whole batch's examples; 0 for a placeholder, so that all processes run the same number of parts."""


def split_batch(
    data: Encoded, members: NDArray[np.int64], pad: int, count: int, numbers: Sequence[int], multiple: int = 1
) -> list[Part]:
    """Return this process's parts of a batch.

    Args:
        data: the examples.
        members: indices of the whole batch's examples.
        pad: id of the padding token.
        count: number of parts; their sizes differ by one example at most.
        numbers: numbers of the parts to return.
        multiple: pad the length to a multiple of this number of tokens.
    """
    parts = []
    for examples in (np.array_split(members, count)[number] for number in numbers):
        if len(examples) == 0:  # fewer examples than parts: a placeholder with weight 0
            parts.append(Part(collate(data, members[:1], pad, multiple), 0.0))
            continue
        batch = collate(data, examples, pad, multiple)
        if len(examples) < len(members):
            batch = weighted(batch, data, examples, members)
        parts.append(Part(batch, len(examples) / len(members)))
    return parts


def weighted(batch: Batch, data: Encoded, examples: NDArray[np.int64], members: NDArray[np.int64]) -> Batch:
    """Return a part with its `Share`, given the indices of the part's examples and of the whole batch's."""
    part, whole = (members_of(data, indices) for indices in (examples, members))
    return replace(batch, share=Share(part, whole))
