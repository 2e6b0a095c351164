"""Weights of 2, 3, 4 or 8 bits in groups of inputs, by rounding alone or with calibration; inputs stay floats.

Rounding to the nearest point needs nothing; GPTQ and AWQ look at the inputs of every layer on some training examples,
all in one pass of the unrounded model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.data.batches import Batch
from lissom.errors import InputError
from lissom.models.calibration import input_grams
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, GroupWeights
from lissom.models.grouped import GroupedLinear, GroupGrid
from lissom.models.layers import Indivisible, matrix_of
from lissom.models.sensitivity import effects
from lissom.quantize.awq import awq
from lissom.quantize.compact_config import WeightOnly
from lissom.quantize.gptq import gptq
from lissom.quantize.mixed import BITS, allocate
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sampling import calibration_batches


def plan(model: CompressedModel, lesson: Lesson, params: WeightOnly) -> Recipe:
    """Return the recipe. With a training, weights are rounded in every step, and the gradient passes to the exact ones.

    Raises:
        InputError: a pattern of `keep` is no regular expression, or matches nothing; or there is nothing to round.
    """
    edit = GroupWeights(
        bits=params.bits, group=params.group, clip=params.rounding == "mse", smooth=params.rounding == "awq",
        packed=params.kernel == "packed", keep=params.keep,
        logits=params.logits, correction=params.correction, table_bits=params.table_bits,
    )  # fmt: skip
    sizes = {path: matrix_of(model.network.get_submodule(path)).numel() for path in edit.paths(model.network)}
    if not sizes and (params.average_bits is not None or not edit.rounds_table(model.network)):
        raise InputError(
            "weight_only: there is no layer to round: all are in `keep`, or factorised or quantised already; change "
            "keep, or leave one of the methods out"
        )
    facts: dict[str, Any] = {"bits": params.bits, "layers": len(sizes)}
    calibrates = params.rounding in ("gptq", "awq")
    batches: list[Batch] = []
    if calibrates or params.average_bits is not None:
        batches = list(calibration_batches(model, lesson, params.calibration_examples, params.seed))
    if params.average_bits is not None:
        chosen = allocate(sizes, _divergences(model, batches, sizes, params), params.average_bits)
        edit = edit.model_copy(update={"layers": chosen})
        facts["bits"] = sum(chosen[path] * size for path, size in sizes.items()) / sum(sizes.values())
    if params.training is not None:
        return Recipe(
            calibrate=lambda trained: _round_in_training(trained, edit),
            finish=lambda trained: _keep_rounded(trained, edit),
            facts=facts,
        )
    if not calibrates:
        return Recipe(edits=[edit], facts=facts)
    fitted = _fitted(model, batches, edit, params)

    def fill(rounded: CompressedModel) -> None:
        for path, tensors in fitted.items():
            layer = rounded.network.get_submodule(path)
            assert isinstance(layer, GroupedLinear)
            for name, tensor in tensors.items():
                layer.get_buffer(name).copy_(tensor)

    return Recipe(edits=[edit], calibrate=fill, facts=facts)


def _divergences(
    model: CompressedModel, batches: Sequence[Batch], paths: Iterable[str], params: WeightOnly
) -> dict[str, dict[int, float]]:
    """Return by path and bits how much the answers change when one layer is rounded."""
    grids = {str(bits): GroupGrid(bits, params.group, clip=True) for bits in BITS}
    found: dict[str, dict[int, float]] = {}
    for effect in effects(model, batches, list(paths), {name: grid.rounded for name, grid in grids.items()}):
        found.setdefault(effect.layer, {})[int(effect.change)] = effect.divergence
    return found


def _fitted(
    model: CompressedModel, batches: Sequence[Batch], edit: GroupWeights, params: WeightOnly
) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of every rounded layer that a calibration finds, by path and name."""
    layers = {path: model.network.get_submodule(path) for path in edit.paths(model.network)}
    grams = input_grams(model.network, layers, batches)
    fitted = {}
    for path, layer in layers.items():
        if path not in grams:  # no example reaches it
            continue
        assert isinstance(layer, nn.Linear)
        weight, grid, rounded = layer.weight.detach(), edit.grid(path), edit.grouped(path, layer)
        if params.rounding == "gptq":
            found = gptq(weight, grams[path], grid, params.damping)
        else:
            factors = awq(weight, grams[path], grid)
            scaled = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            scaled.weight = nn.Parameter(weight * factors)
            multiplied = edit.grouped(path, scaled)
            found = (multiplied.integers, multiplied.scales, multiplied.zeros)
            rounded.get_buffer("smoothing").copy_(factors)
        for name, tensor in zip(("integers", "scales", "zeros"), found, strict=True):
            rounded.get_buffer(name).copy_(tensor)
        edit.correct(rounded, weight, grams[path])
        fitted[path] = {name: buffer for name, buffer in rounded.named_buffers() if name != "bias"}
    return fitted


class _Rounded(nn.Module, Indivisible):
    """Rounds a weight to the grid of its groups, with the gradient of the identity."""

    def __init__(self, grid: GroupGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight `[out, in]` to the rounded one."""
        return weight + (self.grid.rounded(weight.detach()) - weight).detach()


def _round_in_training(trained: CompressedModel, edit: GroupWeights) -> None:
    edit.round_table(trained.network)
    for path in edit.paths(trained.network):
        parametrize.register_parametrization(trained.network.get_submodule(path), "weight", _Rounded(edit.grid(path)))


def _keep_rounded(trained: CompressedModel, edit: GroupWeights) -> Sequence[Edit]:
    """Make layers plain again, with the exact weights, which the edit rounds as the training did."""
    for module in list(trained.network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrizations = module.get_submodule("parametrizations.weight")
            if isinstance(parametrizations.get_submodule("0"), _Rounded):
                exact = parametrizations.get_parameter("original").detach().clone()
                parametrize.remove_parametrizations(module, "weight")
                module.register_parameter("weight", nn.Parameter(exact))
    return [edit]
