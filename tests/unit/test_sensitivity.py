"""Sensitivity: weights are as before, effects are those of one layer alone, budgets are kept."""

import numpy as np
import pytest
import torch

from lissom.models.compressed import logits_of
from lissom.models.edits.quantizers import quantised_products
from lissom.models.grouped import GroupedLinear, GroupGrid
from lissom.models.layers import matrix_of
from lissom.models.sensitivity import effects
from lissom.quantize.compact_config import WeightOnly
from lissom.quantize.mixed import BITS, allocate
from lissom.quantize.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@families
def test_one_layer_alone_is_changed_and_restored(family):
    model, batch = tiny.model(family), tiny.batch(family, 4, 9)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    paths = quantised_products(model.network)[:3]
    found = list(effects(model, [batch], paths, {"nothing": lambda weight: weight, "zero": torch.zeros_like}))
    assert [(effect.layer, effect.change) for effect in found] == [
        (path, change) for path in paths for change in ("nothing", "zero")
    ]
    assert all(abs(effect.divergence) < 1e-6 and effect.loss == 0 for effect in found if effect.change == "nothing")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


def test_the_effect_is_the_divergence_of_the_changed_model():
    model, batches = tiny.model("bert"), [tiny.batch("bert", 3, 9), tiny.batch("bert", 1, 5)]
    path = "bert.encoder.layer.1.output.dense"
    changed = tiny.model("bert")
    changed.network.get_submodule(path).weight.data.mul_(3)
    with torch.no_grad():
        own, other = (
            torch.cat([logits_of(each.network, batch) for batch in batches]).log_softmax(1) for each in (model, changed)
        )
    expected = float((own.exp() * (own - other)).sum(1).mean())
    (effect,) = effects(model, batches, [path], {"thrice": lambda weight: 3 * weight})
    assert effect.divergence == pytest.approx(expected, rel=1e-4) and expected > 0


def test_an_interrupted_change_is_undone():
    model, path = tiny.model("bert"), "bert.encoder.layer.1.output.dense"
    before = model.network.get_submodule(path).weight.detach().clone()

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(effects(model, [tiny.batch("bert")], [path], {"fail": fail}))
    assert torch.equal(model.network.get_submodule(path).weight, before)


@pytest.mark.parametrize("average", [2, 2.5, 3, 4, 5.5, 8])
def test_budgets_are_kept_and_spent_where_answers_change(average):
    generator = np.random.default_rng(0)
    sizes = {str(layer): int(generator.integers(100, 1000)) for layer in range(12)}
    friendly = {layer: generator.random() ** 3 for layer in sizes}
    divergences = {layer: {bits: friendly[layer] * 4.0**-bits for bits in BITS} for layer in sizes}
    chosen = allocate(sizes, divergences, average)

    def cost(bits):
        return sum(bits[layer] * size for layer, size in sizes.items())

    def lost(bits):
        return sum(divergences[layer][count] for layer, count in bits.items())

    assert cost(chosen) <= average * sum(sizes.values())
    if average in BITS:
        assert lost(chosen) <= lost(dict.fromkeys(sizes, average))
    assert average > 2 or set(chosen.values()) == {2}
    assert average < 8 or set(chosen.values()) == {8}


def test_bits_are_not_spent_on_layers_that_do_not_change_answers():
    sizes, divergences = {"a": 10, "b": 10}, {"a": dict.fromkeys(BITS, 0.0), "b": {2: 4.0, 3: 1.0, 4: 0.5, 8: 0.0}}
    assert allocate(sizes, divergences, 5) == {"a": 2, "b": 8}


@pytest.mark.parametrize("rounding", ["mse", "gptq", "awq"])
def test_bits_by_layer_are_stored(rounding, lesson):
    model = tiny.model("bert")
    params = WeightOnly(
        method="weight_only", average_bits=3.5, group=16, rounding=rounding, calibration_examples=8
    )  # fmt: skip
    recipe = plan(model, lesson, params)
    assert recipe.facts["bits"] <= 3.5
    compress(model, recipe, lesson, LiveTeacher(tiny.model("bert").network), None)
    layers = [module for module in model.network.modules() if isinstance(module, GroupedLinear)]
    weights = sum(layer.bits * layer.integers.numel() for layer in layers)
    assert weights == pytest.approx(recipe.facts["bits"] * sum(layer.integers.numel() for layer in layers))
    assert len({layer.bits for layer in layers}) > 1
    assert all(matrix_of(layer).shape == (layer.out_features, layer.in_features) for layer in layers)


def test_fewer_bits_change_answers_more():
    model, batches = tiny.model("bert"), [tiny.batch("bert", 16, 9)]
    changes = {str(bits): GroupGrid(bits, 16, clip=True).rounded for bits in BITS}
    sums = dict.fromkeys(changes, 0.0)
    for effect in effects(model, batches, quantised_products(model.network), changes):
        sums[effect.change] += effect.divergence
    assert list(sums.values()) == sorted(sums.values(), reverse=True)
