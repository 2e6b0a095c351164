"""8-bit quantisation-aware training (SPECS §3.3; Jacob et al. 2018, arXiv:1712.05877).

`plan` decides on the edit, `calibrate` sets the first input ranges, `RangeSchedule` lets them follow the data for
the first part of a training and freezes them for the rest. Converting to integers is the export's part
(`lissom.export.integer`), on the same ranges and the same edit, so that training and export cannot disagree.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.edits.quantizers import quantized_layers
from lissom.models.exits import all_logits
from lissom.training.hooks import Hook


def calibrate(network: PreTrainedModel, batches: Iterable[Batch]) -> None:
    """Observe the input range of every quantised layer on some examples, without dropout; real tokens only."""
    network.eval()
    layers = quantized_layers(network)
    device = next(network.parameters()).device
    for layer in layers:
        layer.observing = True
    with torch.no_grad(), real_tokens_only(network):
        for batch in batches:
            all_logits(network, batch.to(device))
            for layer in layers:
                layer.settle()
    for layer in layers:
        layer.observing = False


class RangeSchedule(Hook):
    """Ranges follow the training data up to a share of the steps, then stand still."""

    def __init__(self, observe: float) -> None:
        self._observe = observe

    def begin(self, network: nn.Module) -> None:
        """Find the layers."""
        self._layers = quantized_layers(network)

    def before_step(self, step: int, total: int) -> None:
        """Switch observation on or off."""
        for layer in self._layers:
            layer.observing = step < self._observe * total


@contextmanager
def real_tokens_only(network: nn.Module) -> Iterator[None]:
    """Let the observers of a network leave out padding while the context lasts."""
    layers = quantized_layers(network)

    def note(_: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        mask = inputs["attention_mask"].bool()
        for layer in layers:
            layer.real_tokens = mask

    trunk = network.base_model if isinstance(network, PreTrainedModel) else network
    handle = trunk.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        for layer in layers:
            layer.real_tokens = None
            layer.observing = False
