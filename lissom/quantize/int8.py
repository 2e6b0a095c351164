"""8-bit quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877, §3).

Fake-quantised layers replace the matrix products. Their input ranges are initialised on some training examples, updated
during the first part of the training and frozen for the rest. The layers themselves convert to integers (`converted`),
on the same ranges, so that training and export agree.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.models.compressed import CompressedModel
from lissom.models.edits import FakeQuantize
from lissom.models.exits import all_logits
from lissom.models.layers import Observer, observers_of, set_real_tokens
from lissom.quantize.config import Int8Training
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 32


def plan(_: CompressedModel, lesson: Lesson, params: Int8Training) -> Recipe:
    """Return the recipe; the params alone determine its edits."""

    def set_ranges(model: CompressedModel) -> None:
        data = lesson.texts(model)
        members = calibration_sample(data, params.calibration_examples, params.seed)
        batches = np.split(members, range(_BATCH_SIZE, len(members), _BATCH_SIZE))
        calibrate(model.network, (collate(data, batch, model.pad_id) for batch in batches))

    return Recipe(
        edits=[FakeQuantize(weight_bits=params.weight_bits)], calibrate=set_ranges,
        hooks=[RangeSchedule(params.observe)],
    )  # fmt: skip


def calibration_sample(data: Encoded, count: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of `count` labelled examples (of all, if there are fewer), drawn at random, in random order.

    Long texts have wider ranges than short ones, so that batches must not be sorted by length.
    """
    return np.random.default_rng(seed).permutation(data.labelled(len(data)))[:count]


def calibrate(network: PreTrainedModel, batches: Iterable[Batch]) -> None:
    """Set the input range of every observer layer from some examples, in eval mode; padding is not observed.

    The range is the mean of the batches' ranges, each weighted by its examples. Until all are known, layers compute in
    float.
    """
    network.eval()
    layers = observers_of(network)
    device = next(network.parameters()).device
    for layer in layers:
        layer.observer_enabled = True
    totals: list[Tensor] = []
    examples = 0
    with torch.no_grad():
        for batch in batches:
            batch = batch.to(device)
            examples += len(batch)
            set_real_tokens(layers, batch.inputs)
            all_logits(network, batch)
            ranges = [len(batch) * _take_range(layer) for layer in layers]
            totals = [total + new for total, new in zip(totals, ranges, strict=True)] if totals else ranges
    set_real_tokens(layers, None)
    for layer, total in zip(layers, totals, strict=True):
        low, high = total / examples
        layer.pending_range = low, high
        layer.update_range()
        layer.observer_enabled = False


def _take_range(layer: Observer) -> Tensor:
    """Return the range that a layer has recorded, `[2]`, and reset it."""
    assert layer.pending_range is not None, "every layer runs on every batch"
    observed = torch.stack(layer.pending_range)
    layer.pending_range = None
    return observed


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
