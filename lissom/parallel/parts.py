"""A batch in parts: which process works on which examples, and what each part counts for.

A loss is a mean over its batch. With every part's mean weighted by its share of the examples (and means over tokens or
pairs by theirs), the parts' gradients add up to the whole batch's, however ragged they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lissom.data.batches import Batch, Share, collate
from lissom.data.encoding import Encoded

Loss = Callable[[nn.Module, Batch], Tensor]
"""Maps a network and a batch, or a part of one, to a mean."""


@dataclass(frozen=True)
class Part:
    """Some examples of a batch."""

    batch: Batch
    weight: float
    """Share of the whole batch's examples; 0 for a part that is only there to keep step with the others."""


def cut_batch(
    data: Encoded, members: NDArray[np.int64], pad: int, count: int, own: Sequence[int], multiple: int = 1
) -> list[Part]:
    """Return this process's parts of a batch.

    Args:
        data: the examples.
        members: numbers of the whole batch's examples.
        pad: id of the padding token.
        count: parts that the batch is cut into; they differ by one example at most.
        own: numbers of the parts to return.
        multiple: pad to a multiple of so many tokens.
    """
    parts = []
    for examples in (np.array_split(members, count)[number] for number in own):
        if len(examples) == 0:  # fewer examples than parts: one is looked at again, and not counted
            parts.append(Part(collate(data, members[:1], pad, multiple), 0.0))
            continue
        batch = collate(data, examples, pad, multiple)
        if len(examples) < len(members):
            batch = weighted(batch, data.lengths[examples], data.lengths[members])
        parts.append(Part(batch, len(examples) / len(members)))
    return parts


def weighted(batch: Batch, lengths: NDArray[np.int64], whole: NDArray[np.int64]) -> Batch:
    """Return a part with the weights of its tokens and pairs, given the lengths of its and of all examples."""
    share = len(lengths) / len(whole)
    return replace(
        batch,
        share=Share(
            tokens=float(lengths.sum() / whole.sum() / share),
            pairs=float((lengths**2).sum() / (whole**2).sum() / share),
        ),
    )
