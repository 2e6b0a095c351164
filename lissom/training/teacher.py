"""The teacher behind one small interface: asked live, or computed once and read back per example."""

from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from lissom.artifacts import TEACHER_OUTPUTS
from lissom.data.batches import Batch
from lissom.data.encoding import Encoded
from lissom.errors import InputError
from lissom.models.signals import Signals, Wanted, signals_of
from lissom.training.predicting import predict


class Teacher(Protocol):
    """Anything that knows what a teacher says of a batch."""

    def signals(self, batch: Batch) -> Signals:
        """Return the logits, and whatever else the teacher was set up to give; without gradients."""
        ...


class LiveTeacher:
    """A teacher that is asked for every batch; in eval mode, whatever happens around it.

    Args:
        network: the teacher; attention scores need `expose_scores` around the calls.
        wanted: the signals to give besides logits.
    """

    def __init__(self, network: PreTrainedModel, wanted: Wanted | None = None) -> None:
        self._network = network
        self._wanted = wanted or Wanted()

    def signals(self, batch: Batch) -> Signals:
        """Run the teacher."""
        self._network.eval()
        with torch.no_grad():
            return signals_of(self._network, batch, self._wanted)


class CachedLogits:
    """Logits of a whole data set, looked up by example number: tokens play no part, so tokenisers may differ."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def signals(self, batch: Batch) -> Signals:
        """Look up the batch's examples."""
        return Signals(self.values[batch.indices.cpu()].to(batch.indices.device))


def cache_logits(network: PreTrainedModel, data: Encoded, pad: int, precision: torch.dtype | None) -> Tensor:
    """Return the teacher's logits of every example, `[examples, labels]`, each computed once."""
    return predict(network, data, pad, precision, "teacher's logits")


def save_logits(logits: Tensor, folder: Path) -> None:
    """Write cached logits into a folder."""
    save_file({"logits": logits.contiguous()}, folder / TEACHER_OUTPUTS)


def load_logits(folder: Path, examples: int) -> CachedLogits:
    """Read cached logits back.

    Raises:
        InputError: they belong to a data set of another size.
    """
    logits = load_file(folder / TEACHER_OUTPUTS)["logits"]
    if len(logits) != examples:
        raise InputError(
            f"{folder}: teacher outputs of {len(logits)} examples, the data has {examples}; run teacher again"
        )
    return CachedLogits(logits)
