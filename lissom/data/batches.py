"""Batches of examples of similar length, to reduce padding, shuffled anew in every epoch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.data.encoding import Encoded

_BATCHES_PER_BUCKET = 50
_MOST_OUTPUTS = 2**26
"""Numbers in the outputs of a batch: 256 MiB in float32, and as much again for their logarithms."""


@dataclass(frozen=True)
class Members:
    """The examples of a batch, or of a part of one, from which the sizes of means are counted."""

    indices: NDArray[np.int64]
    """Indices in the data set, `[batch]`."""
    lengths: NDArray[np.int64]
    """Real tokens of every example, `[batch]`."""
    row_counts: NDArray[np.int64] | None = None
    """Rows of targets of every example, `[batch]`; None if each has one."""


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
class TokenRows:
    """The rows of a batch's targets that belong to tokens, in the order of the examples."""

    example: Tensor
    """Position of the row's example in the batch, `[rows]` int64."""
    place: Tensor
    """Position of the token in the example, `[rows]` int64; -1 for a row whose token is cut off."""
    index: Tensor
    """Index of the row in the data set, `[rows]` int64: the key of caches per row."""

    def of(self, outputs: Tensor) -> Tensor:
        """Return the outputs `[rows, ...]` out of those of all tokens, `[batch, n, ...]`; zeros where there is none."""
        rows = outputs[self.example, self.place.clamp(min=0)]
        return torch.where((self.place >= 0)[:, None], rows, torch.zeros((), dtype=rows.dtype, device=rows.device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "TokenRows":
        """Return the rows with every tensor changed."""
        return TokenRows(change(self.example), change(self.place), change(self.index))


@dataclass(frozen=True)
class Batch:
    """Padded examples."""

    inputs: Mapping[str, Tensor]
    """Inputs by transformers' names, each `[batch, n]` int64: `input_ids`, `attention_mask` (1 for real tokens),
    `token_type_ids`; where a decoder writes the targets also `decoder_input_ids` and `decoder_attention_mask`,
    `[batch, m]`."""
    targets: Tensor
    """`[rows]`, or `[rows, ...]`, from `Task.targets`: one row for every example, or those of `token_rows`."""
    indices: Tensor
    """`[batch]` int64, the examples' indices in the data set: the keys of caches per example."""
    token_rows: TokenRows | None = None
    """Set if targets and outputs belong to tokens."""
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

    @property
    def row_indices(self) -> Tensor:
        """Return the indices of the rows of targets in the data set, `[rows]`."""
        return self.indices if self.token_rows is None else self.token_rows.index

    def outputs_of(self, outputs: Tensor) -> Tensor:
        """Return a network's outputs for the rows of targets, `[rows, ...]`.

        Args:
            outputs: of the examples, `[batch, ...]`, or with `token_rows` of all tokens, `[batch, n, ...]`.
        """
        return outputs if self.token_rows is None else self.token_rows.of(outputs)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        token_rows = None if self.token_rows is None else self.token_rows.each(moved)
        return replace(self._each(moved), targets=moved(self.targets), token_rows=token_rows)

    def examples(self, index: Tensor) -> "Batch":
        """Return some of the examples, given their positions in the batch or a mask."""
        part = self._each(lambda tensor: tensor[index])
        if self.token_rows is None:
            return replace(part, targets=self.targets[index])
        positions = torch.arange(len(self), device=index.device)[index]
        picked = [torch.nonzero(self.token_rows.example == position).squeeze(1) for position in positions]
        chosen = torch.cat(picked)
        token_rows = self.token_rows.each(lambda tensor: tensor[chosen])
        example = torch.repeat_interleave(torch.tensor([len(rows) for rows in picked], device=chosen.device))
        return replace(part, targets=self.targets[chosen], token_rows=replace(token_rows, example=example))

    def reading(self, ids: Tensor) -> "Batch":
        """Return the batch with other token ids `[batch, n]`."""
        return replace(self, inputs={**self.inputs, "input_ids": ids})

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, indices=change(self.indices))


def members_of(data: Encoded, indices: NDArray[np.int64]) -> Members:
    """Return examples with the numbers of their tokens and rows."""
    return Members(indices, data.lengths[indices], None if data.places is None else data.row_counts(indices))


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
    rows = data.rows_of(np.asarray(indices, dtype=np.int64))
    token_rows = None
    if data.places is not None:
        example = np.repeat(np.arange(len(indices)), data.row_counts(indices))
        token_rows = TokenRows(*(torch.from_numpy(array) for array in (example, data.places[rows], rows)))
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, **_decoder_inputs(data, indices, pad)}
    return Batch(
        inputs={name: torch.from_numpy(array) for name, array in inputs.items()},
        targets=torch.from_numpy(data.targets[rows]),
        indices=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
        token_rows=token_rows,
    )


def _decoder_inputs(data: Encoded, indices: NDArray[np.int64], pad: int) -> dict[str, NDArray[np.int64]]:
    """Return examples' targets, shifted by one token, and their mask, each `[batch, m]`; empty without a decoder."""
    if data.start_id is None or data.row_offsets is None:
        return {}
    counts = data.row_counts(np.asarray(indices, dtype=np.int64))
    ids = np.full((len(indices), max(1, int(counts.max()))), pad, dtype=np.int64)
    ids[:, 0] = data.start_id
    for row, index in enumerate(indices):
        first = data.row_offsets[index]
        ids[row, 1 : counts[row]] = data.targets[first : first + counts[row] - 1] if counts[row] else ()
    return {"decoder_input_ids": ids, "decoder_attention_mask": (np.arange(ids.shape[1]) < counts[:, None]).astype(int)}


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


def examples_at_once(data: Encoded, most: int, outputs: int) -> int:
    """Return how many examples fit into a batch, so that a model's answers to it do not fill the memory.

    Args:
        data: the examples.
        most: the largest batch.
        outputs: numbers that the model puts out for every token.
    """
    longest = int(data.lengths.max(initial=1))
    if data.row_offsets is not None:  # where a text is written, it may be longer than the one that is read
        longest = max(longest, int(np.diff(data.row_offsets).max(initial=1)))
    return max(1, min(most, _MOST_OUTPUTS // (longest * outputs)))


def sorted_batches(
    data: Encoded, batch_size: int, pad: int, members: NDArray[np.int64] | None = None, multiple: int = 1
) -> Iterator[Batch]:
    """Yield batches of all examples (or of `members`), sorted by length; `pad` and `multiple` as for `collate`."""
    members = np.arange(len(data)) if members is None else members
    order = members[np.argsort(data.lengths[members], kind="stable")]
    for start in range(0, len(order), batch_size):
        yield collate(data, order[start : start + batch_size], pad, multiple)
