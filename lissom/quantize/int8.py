"""Products of integers by calibration or quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877, §3).

Fake-quantised layers replace the matrix products. Their input ranges are initialised on some training examples, updated
during the first part of the training and frozen for the rest. The layers themselves convert to integers (`converted`),
on the same ranges, so that training and export agree.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import FakeQuantize, StoreIntegers
from lissom.models.edits.quantizers import kept_layers, quantised_products
from lissom.models.edits.word_table import rows_of
from lissom.models.exits import all_logits
from lissom.models.fake_quant import FakeQuantLinear
from lissom.models.families import family_of
from lissom.models.layers import Observer, observers_of, set_real_tokens
from lissom.quantize.config import Int8Training
from lissom.quantize.float_layers import with_float_layers
from lissom.quantize.observers import range_of
from lissom.quantize.smoothing import smooth
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sampling import calibration_batches


def plan(model: CompressedModel, lesson: Lesson, params: Int8Training) -> Recipe:
    """Return the recipe; the model is only looked at.

    The layers end as integers, so that the model's file is as small as what is exported.

    Raises:
        InputError: there is nothing to round, or the file exceeds the budget of latency even with all layers rounded.
    """
    kept, path = kept_layers(model.network, params.keep), rows_of(model.network, family_of(model.network).word_table)
    has_table = path not in kept and type(model.network.get_submodule(path)) is nn.Embedding
    if not has_table and not set(quantised_products(model.network, logits=params.logits)) - set(kept):
        raise InputError(
            "quantize.method: int8: there is nothing to round: all is in `keep`, or stored in another form by an "
            "earlier method"
        )
    edit = FakeQuantize(
        weight_bits=params.weight_bits, weight_scale=params.weight_scale, input_bits=params.input_bits,
        inputs=params.inputs, smooth=params.smooth is not None, table_bits=params.table_bits, keep=params.keep,
        logits=params.logits,
    )  # fmt: skip

    def batches_of(prepared: CompressedModel) -> list[Batch]:
        return calibration_batches(prepared, lesson, params.calibration_examples, params.seed)

    def prepare(prepared: CompressedModel, batches: Sequence[Batch]) -> None:
        if params.smooth is not None:
            smooth(prepared.network, batches, params.smooth)
        for layer in fake_quantised(prepared.network):
            layer.noise, layer.stochastic, layer.range_of = params.noise, params.stochastic, range_of(params)
        if params.inputs == "static":
            calibrate(prepared.network, batches, whole=params.observer == "min_max")

    if params.latency is not None:
        edit = with_float_layers(model, lesson, edit, params.latency, batches_of(model), prepare)
    hooks: list[Hook] = [RangeSchedule(params.observe)]
    if params.weight_scale == "mean":
        hooks.append(ClipWeights())
    return Recipe(
        edits=[edit], calibrate=lambda prepared: prepare(prepared, batches_of(prepared)), hooks=hooks,
        finish=lambda _: [StoreIntegers()],
    )  # fmt: skip


def fake_quantised(network: nn.Module) -> list[FakeQuantLinear]:
    """Return the fake-quantised products of a network."""
    return [module for module in network.modules() if isinstance(module, FakeQuantLinear)]


def calibrate(network: PreTrainedModel, batches: Iterable[Batch], *, whole: bool = False) -> None:
    """Set the input range of every observer layer from some examples, in eval mode; padding is not observed.

    The range is the mean of the batches' ranges, each weighted by its examples, or the `whole` range of all. Until all
    are known, layers compute in float.
    """
    network.eval()
    layers = observers_of(network)
    device = next(network.parameters()).device
    for layer in layers:
        layer.observer_enabled = True
    observed: list[list[Tensor]] = [[] for _ in layers]
    sizes = []
    with torch.no_grad():
        for batch in batches:
            batch = batch.to(device)
            sizes.append(len(batch))
            set_real_tokens(layers, batch.inputs)
            all_logits(network, batch)
            for layer, ranges in zip(layers, observed, strict=True):
                ranges.append(_take_range(layer))
    set_real_tokens(layers, None)
    for layer, ranges in zip(layers, observed, strict=True):
        bounds = torch.stack(ranges)  # [batches, 2]
        shares = torch.tensor(sizes, dtype=bounds.dtype, device=device) / sum(sizes)
        low, high = (bounds[:, 0].amin(), bounds[:, 1].amax()) if whole else shares @ bounds
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


class ClipWeights(Hook):
    """Keeps the latent weights of fake-quantised products in [-1, 1] (Hubara et al. 2016, arXiv:1609.07061, §2.3).

    Beyond it their gradient is 0, so that they would never come back.
    """

    def begin(self, network: nn.Module) -> None:
        """Collect the layers."""
        self._layers = fake_quantised(network)

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Clip the weights."""
        with torch.no_grad():
            for layer in self._layers:
                layer.weight.clamp_(-1, 1)
