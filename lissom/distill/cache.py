"""Disk cache of a teacher's hidden states and attention scores for a whole data set.

The arrays are ragged: each signal is one memory-mapped float32 file that stores the real tokens of every example (or,
with `SignalSpec.padding`, as many tokens as the longest example has).
Lookups are by example index, not by position in a shuffled order.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from lissom.console import track
from lissom.data.batches import Batch, sorted_batches
from lissom.data.encoding import Encoded
from lissom.models.signals import Signals, SignalSpec, expose_scores
from lissom.training.teacher import LiveTeacher

_BATCH_SIZE = 64
_BYTES = 4

Ragged = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Concatenated values of all examples, and the start offset of each, `[examples + 1]`."""


def estimate_bytes(network: PreTrainedModel, data: Encoded, spec: SignalSpec) -> int:
    """Return the size in bytes of the cache of a data set."""
    config, lengths = network.config, _stored_lengths(data, spec)
    vectors = len(data) if spec.pooled else int(lengths.sum())
    values = len(spec.hidden) * vectors * config.hidden_size
    values += len(spec.scores) * int((lengths**2).sum()) * config.num_attention_heads
    return int((values + len(data.targets) * config.num_labels) * _BYTES)


@dataclass(frozen=True)
class CachedSignals:
    """A `Teacher` whose signals are read from disk."""

    logits: Tensor
    hidden: dict[int, Ragged]
    scores: dict[int, Ragged]
    lengths: NDArray[np.int64]
    """Stored tokens of every example."""
    width: int
    heads: int
    pooled: bool

    def signals(self, batch: Batch) -> Signals:
        """Return the signals of the batch's examples, cut or zero-padded to the batch's length."""
        numbers, device = batch.indices.cpu().numpy(), batch.indices.device
        length = batch.ids.shape[1]
        return Signals(
            logits=self.logits[batch.row_indices.cpu()].to(device),
            hidden={entry: self._hidden(ragged, numbers, length).to(device) for entry, ragged in self.hidden.items()},
            scores={block: self._scores(ragged, numbers, length).to(device) for block, ragged in self.scores.items()},
        )

    def _hidden(self, ragged: Ragged, numbers: NDArray[np.int64], length: int) -> Tensor:
        values, starts = ragged
        if self.pooled:
            return torch.from_numpy(values.reshape(-1, self.width)[numbers])
        output = np.zeros((len(numbers), length, self.width), dtype=np.float32)
        for row, number in enumerate(numbers):
            stored = values[starts[number] : starts[number + 1]].reshape(-1, self.width)[:length]
            output[row, : len(stored)] = stored
        return torch.from_numpy(output)

    def _scores(self, ragged: Ragged, numbers: NDArray[np.int64], length: int) -> Tensor:
        values, starts = ragged
        output = np.zeros((len(numbers), self.heads, length, length), dtype=np.float32)
        for row, number in enumerate(numbers):
            size = self.lengths[number]
            block = values[starts[number] : starts[number + 1]].reshape(self.heads, size, size)[:, :length, :length]
            output[row, :, : block.shape[1], : block.shape[2]] = block
        return torch.from_numpy(output)


def cache_signals(
    network: PreTrainedModel,
    data: Encoded,
    pad: int,
    spec: SignalSpec,
    folder: Path,
    precision: torch.dtype | None = None,
) -> CachedSignals:
    """Run the teacher once on every example and write its signals to `folder`, which must outlive the result."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths, config = _stored_lengths(data, spec), network.config
    sizes = np.ones_like(lengths) if spec.pooled else lengths
    hidden = {entry: _allocate(folder / f"hidden-{entry}.f32", sizes * config.hidden_size) for entry in spec.hidden}
    squares = lengths**2 * config.num_attention_heads
    scores = {block: _allocate(folder / f"scores-{block}.f32", squares) for block in spec.scores}
    logits = torch.empty(len(data.targets), config.num_labels)
    teacher, device = LiveTeacher(network, spec), next(network.parameters()).device
    autocast = torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None)
    multiple = int(lengths.max()) if spec.padding else 1
    batches = track(
        sorted_batches(data, _BATCH_SIZE, pad, multiple=multiple), "teacher's signals",
        math.ceil(len(data) / _BATCH_SIZE),
    )  # fmt: skip
    with expose_scores(*([network] if spec.scores else [])), autocast:
        for batch in batches:
            signals = teacher.signals(batch.to(device))
            logits[batch.row_indices] = signals.logits.float().cpu()
            for row, number in enumerate(batch.indices.tolist()):
                size = int(lengths[number])
                for entry, (values, starts) in hidden.items():
                    vectors = signals.hidden[entry][row] if spec.pooled else signals.hidden[entry][row, :size]
                    values[starts[number] : starts[number + 1]] = vectors.float().cpu().flatten()
                for block, (values, starts) in scores.items():
                    block_scores = signals.scores[block][row, :, :size, :size]
                    values[starts[number] : starts[number + 1]] = block_scores.float().cpu().flatten()
    return CachedSignals(logits, hidden, scores, lengths, config.hidden_size, config.num_attention_heads, spec.pooled)


def _stored_lengths(data: Encoded, spec: SignalSpec) -> NDArray[np.int64]:
    """Return how many tokens of every example are stored, `[examples]`."""
    return np.full_like(data.lengths, data.lengths.max()) if spec.padding else data.lengths


def _allocate(path: Path, sizes: NDArray[np.int64]) -> Ragged:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.memmap(path, dtype=np.float32, mode="w+", shape=(int(starts[-1]),)), starts
