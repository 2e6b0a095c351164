"""SmoothQuant: moving the outliers of activations into the weights (Xiao et al. 2023, arXiv:2211.10438, §4).

Input feature j is divided, and its weights are multiplied, by max|x_j|^a / max|w_j|^(1 - a). The product is the same;
one range for all features fits better. Products that read the same input share the factors. An exported graph divides
in the norm before, where only such products read the norm (lissom/export/divisions.py).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.calibration import watch_inputs
from lissom.models.fake_quant import FakeQuantLinear
from lissom.models.sites import sharing_inputs

_SMALLEST = 1e-5


def smooth(network: PreTrainedModel, batches: Iterable[Batch], strength: float) -> None:
    """Set the factors of all smoothed layers from some examples; padding is not observed.

    Args:
        network: its layers have no ranges yet, so that they compute in floats.
        batches: the examples.
        strength: a, how much of the outliers goes into the weights.
    """
    layers = {
        path: module for path, module in network.named_modules() if isinstance(module, FakeQuantLinear)
    }  # fmt: skip
    largest = _largest_inputs(network, layers, batches)
    for group in sharing_inputs(network, layers):
        members = [layers[path] for path in group]
        inputs = torch.stack([largest[path] for path in group]).amax(0)
        weights = torch.stack([member.weight.detach().abs().amax(0) for member in members]).amax(0)
        factors = inputs.clamp_min(_SMALLEST) ** strength / weights.clamp_min(_SMALLEST) ** (1 - strength)
        for member in members:
            assert member.smoothing is not None
            member.smoothing.copy_(factors.clamp_min(_SMALLEST))
            member.fit_weight_step()


def _largest_inputs(
    network: PreTrainedModel, layers: Mapping[str, FakeQuantLinear], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """Return the largest absolute value of every input feature of every layer, `[in]`."""
    largest = {path: torch.zeros(layer.in_features, device=layer.weight.device) for path, layer in layers.items()}

    def take(path: str, inputs: Tensor) -> None:
        largest[path] = torch.maximum(largest[path], inputs.abs().amax(0))

    watch_inputs(network, layers, batches, take)
    return largest
