"""The teacher's signals behind one interface: computed live, or cached and looked up by example."""

from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from lissom.artifacts import TEACHER_OUTPUTS
from lissom.data.batches import Batch
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.models.signals import Signals, SignalSpec, signals_of
from lissom.models.tensor_file import write_tensors
from lissom.tasks.next_token import renumbered
from lissom.tasks.task import Task
from lissom.training.config import CACHED_TOKENS
from lissom.training.predicting import predict


class Teacher(Protocol):
    """Source of a teacher's signals for a batch."""

    def signals(self, batch: Batch) -> Signals:
        """Return the logits and the other configured signals, without gradients."""
        ...


class LiveTeacher:
    """A teacher that runs on every batch, always in eval mode.

    Args:
        network: the teacher; attention scores need `expose_scores` around the calls.
        spec: the signals to return besides logits.
    """

    def __init__(self, network: PreTrainedModel, spec: SignalSpec | None = None) -> None:
        self._network = network
        self._spec = spec or SignalSpec()

    def signals(self, batch: Batch) -> Signals:
        """Run the teacher on the batch."""
        self._network.eval()
        with torch.no_grad():
            return signals_of(self._network, batch, self._spec)


class CachedLogits:
    """Logits of a whole data set, looked up by row index, so that teacher and student may tokenise differently."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def signals(self, batch: Batch) -> Signals:
        """Return the logits of the batch's rows."""
        return Signals(self.values[batch.row_indices.cpu()].to(batch.indices.device))


class Renumbered:
    """A teacher of next tokens for a student that has some of its tokens only.

    Args:
        teacher: the teacher, which has all.
        new_ids: the student's number of every token, -1 for those that are gone, `[vocabulary]`.
    """

    def __init__(self, teacher: Teacher, new_ids: Tensor) -> None:
        self._teacher, self._new_ids = teacher, new_ids

    def signals(self, batch: Batch) -> Signals:
        """Return the logits of the student's tokens."""
        return Signals(renumbered(self._teacher.signals(batch).logits, self._new_ids))


def cache_logits(
    network: PreTrainedModel,
    data: Encoded,
    pad: int,
    precision: torch.dtype | None,
    task: Task,
    tokens: int = CACHED_TOKENS,
) -> Tensor:
    """Return the teacher's logits of every row of targets, or what the task caches of them, `[rows, ...]`."""
    return predict(network, data, pad, precision, "teacher's logits", lambda outputs: task.remember(outputs, tokens))


def save_logits(logits: Tensor, folder: Path) -> None:
    """Write cached logits into a folder."""
    write_tensors({"logits": logits.contiguous()}, folder / TEACHER_OUTPUTS)


def load_logits(folder: Path, rows: int) -> CachedLogits:
    """Load the logits that `save_logits` wrote.

    Raises:
        InputError: they belong to a data set of another size.
    """
    logits = load_file(folder / TEACHER_OUTPUTS)["logits"]
    if len(logits) != rows:
        raise InputError(f"{folder}: teacher outputs of {len(logits)} rows, the data has {rows}; run teacher again")
    return CachedLogits(logits)
