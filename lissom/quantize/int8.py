"""8-bit quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877, §3).

Fake-quantised layers stand in for the matrix products; some training examples set the first input ranges, the ranges
follow the data for the first part of the training, and stand still for the rest. Converting to integers is the layers'
own part (`converted`), on the same ranges, so that training and export cannot disagree. Returns a recipe.
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
    """Return the recipe."""

    def first_ranges(model: CompressedModel) -> None:
        data = lesson.texts(model)
        members = data.labelled(params.calibration_examples)
        calibrate(model.network, sorted_batches(data, _BATCH_SIZE, model.pad_id, members))

    return Recipe(
        edits=[FakeQuantize(weight_bits=params.weight_bits)], calibrate=first_ranges,
        hooks=[RangeSchedule(params.observe)],
    )  # fmt: skip


def calibrate(network: PreTrainedModel, batches: Iterable[Batch]) -> None:
    """Observe the input range of every observing layer on some examples, without dropout; real tokens only."""
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
    """Ranges follow the training data up to a share of the steps, then stand still; between steps nothing is observed.

    Args:
        observe: the share.
    """

    def __init__(self, observe: float) -> None:
        self._observe = observe

    def begin(self, network: nn.Module) -> None:
        """Find the layers."""
        self._layers = observers_of(network)

    def before_step(self, step: int, total: int) -> None:
        """Switch observation on or off."""
        for layer in self._layers:
            layer.observer_enabled = step < self._observe * total

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Switch observation off: dev examples may come next."""
        for layer in self._layers:
            layer.observer_enabled = False
