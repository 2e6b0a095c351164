"""8-bit quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877, §3).

Fake-quantised layers replace the matrix products. Their input ranges are initialised on some training examples, updated
during the first part of the training and frozen for the rest. The layers themselves convert to integers (`converted`),
on the same ranges, so that training and export agree.
"""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch, sorted_batches
from lissom.models.compressed import CompressedModel
from lissom.models.edits import FakeQuantize
from lissom.models.exits import all_logits
from lissom.models.layers import observers_of, set_real_tokens
from lissom.quantize.config import Int8Training
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 32


def plan(_: CompressedModel, lesson: Lesson, params: Int8Training) -> Recipe:
    """Return the recipe; the params alone determine its edits."""

    def set_ranges(model: CompressedModel) -> None:
        data = lesson.texts(model)
        members = data.labelled(params.calibration_examples)
        calibrate(model.network, sorted_batches(data, _BATCH_SIZE, model.pad_id, members))

    return Recipe(
        edits=[FakeQuantize(weight_bits=params.weight_bits)], calibrate=set_ranges,
        hooks=[RangeSchedule(params.observe)],
    )  # fmt: skip


def calibrate(network: PreTrainedModel, batches: Iterable[Batch]) -> None:
    """Set the input range of every observer layer from some examples, in eval mode; padding is not observed."""
    network.eval()
    layers = observers_of(network)
    device = next(network.parameters()).device
    for layer in layers:
        layer.observer_enabled = True
    with torch.no_grad():
        for batch in batches:
            batch = batch.to(device)
            set_real_tokens(layers, batch.mask)
            all_logits(network, batch)
            for layer in layers:
                layer.update_range()
    set_real_tokens(layers, None)
    for layer in layers:
        layer.observer_enabled = False


class RangeSchedule(Hook):
    """Enables observers in the first part of a training, and disables them for the rest and between steps.

    Args:
        observe: share of the steps with observers enabled.
    """

    def __init__(self, observe: float) -> None:
        self._observe = observe

    def begin(self, network: nn.Module) -> None:
        """Collect the observer layers."""
        self._layers = observers_of(network)

    def before_step(self, step: int, total: int) -> None:
        """Enable or disable the observers."""
        for layer in self._layers:
            layer.observer_enabled = step < self._observe * total

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Disable the observers, since dev examples may follow."""
        for layer in self._layers:
            layer.observer_enabled = False
