import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data.encoding import Encoded
from lissom.models.compressed import logits_of
from lissom.models.edits import FactorizeWordTable, FakeQuantize
from lissom.models.fake_quant import FakeQuantEmbedding, FakeQuantLinear, Rounding
from lissom.models.grid import WeightGrid, affine_range, fake_quantize_rows, row_scales, weight_high
from lissom.models.layers import converted, observers_of, set_real_tokens
from lissom.parallel.replicas import update_ranges
from lissom.quantize import int8
from lissom.quantize.config import Int8Training
from lissom.quantize.int8 import RangeSchedule, calibrate
from lissom.training.sampling import calibration_sample
from tests.unit import tiny

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
bits = pytest.mark.parametrize("weight_bits", [7, 8])


def quantized(family: str, weight_bits: int = 7):
    model = tiny.model(family)
    model.edit(tiny.suited(family, [FactorizeWordTable(rank=8), FakeQuantize(weight_bits=weight_bits)]))
    calibrate(model.network, [tiny.batch(family, seed=seed) for seed in (1, 2)])
    return model


def observed_linear(rows: int = 6, columns: int = 5, weight_bits: int = 7) -> FakeQuantLinear:
    layer = FakeQuantLinear(nn.Linear(columns, rows), Rounding(WeightGrid(weight_bits)))
    layer.observer_enabled = True
    layer(torch.linspace(-1, 3, 40).view(8, 5))
    layer.update_range()
    layer.observer_enabled = False
    return layer


@bits
def test_weights_idempotent_bounded_and_on_few_levels(weight_bits):
    weight, high = torch.randn(6, 500), weight_high(weight_bits)
    rounded = fake_quantize_rows(weight, high)
    assert torch.allclose(fake_quantize_rows(rounded, high), rounded, atol=1e-7)
    assert ((weight - rounded).abs() <= row_scales(weight, high)[:, None] / 2 + 1e-7).all()
    assert all(len(row.unique()) <= 2 * high + 1 for row in rounded)
    assert torch.allclose(rounded.abs().amax(1), weight.abs().amax(1), rtol=1e-6)


def test_a_row_of_zeros_stays_zero():
    assert (fake_quantize_rows(torch.zeros(2, 4), 63) == 0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_exact_in_every_range(low, high):
    scale, zero_point = affine_range(torch.tensor(low), torch.tensor(high))
    assert scale > 0
    rounded = torch.fake_quantize_per_tensor_affine(torch.tensor([0.0, low, high]), scale, zero_point, 0, 255)
    assert rounded[0] == 0
    assert torch.allclose(rounded[1:], torch.tensor([low, high]), atol=float(scale) / 2 + 1e-6)


def test_gradient_passes_inside_and_stops_where_clipped():
    layer = observed_linear()
    values = torch.tensor([[-1.5, -0.9, 0.0, 2.9, 3.5]], requires_grad=True)
    layer(values).sum().backward()
    through = layer.weight.detach()
    expected = fake_quantize_rows(through, 63).sum(0) * torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    assert torch.allclose(values.grad[0], expected, atol=1e-6)
    assert layer.weight.grad.abs().sum() > 0


def test_disabled_until_observed():
    linear = nn.Linear(5, 6)
    layer = FakeQuantLinear(copy.deepcopy(linear), Rounding(WeightGrid(7)))
    values = torch.randn(3, 5)
    assert torch.equal(layer(values), linear(values))


@bits
def test_integer_layer_computes_what_was_trained(weight_bits):
    layer = observed_linear(64, 5, weight_bits)
    values = torch.randn(200, 5) * 2
    assert torch.allclose(layer.converted()(values), layer(values), atol=1e-5)


def test_seven_bits_cannot_saturate_int16():
    """u8 x s8 pairs are summed in int16 on x86 without VNNI (Intel 64 instruction VPMADDUBSW)."""
    assert 2 * 255 * weight_high(7) <= 32767 < 2 * 255 * weight_high(8)


def test_integer_table_looks_up_what_was_trained():
    table = FakeQuantEmbedding(nn.Embedding(9, 7), 127)
    ids = torch.arange(9).view(3, 3)
    assert torch.allclose(table.converted()(ids), table(ids), atol=1e-7)


@families
def test_integer_model_equals_the_trained_one_and_leaves_it_alone(family):
    """A value in the middle between two points of a grid may be rounded up by one and down by the other."""
    model = quantized(family)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    integer = converted(model.network)
    differences = []
    for seed in range(10):
        batch = tiny.batch(family, seed=seed)
        with torch.no_grad():
            differences += (logits_of(integer, batch) - logits_of(model.network, batch)).abs().amax(1).tolist()
    assert sum(difference < 1e-4 for difference in differences) >= 58 and len(differences) == 60
    assert max(differences) < 0.05
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())
    assert not [module for module in integer.modules() if isinstance(module, FakeQuantLinear | FakeQuantEmbedding)]


@families
def test_norms_and_classifier_stay_float(family):
    model = quantized(family)
    kinds = {type(module) for module in model.network.modules() if "Norm" in type(module).__name__}
    assert kinds
    floats = [name for name, module in model.network.named_modules() if type(module) is nn.Linear]
    assert len(floats) == 1 and model.network.get_submodule(floats[0]).out_features == 3


@families
def test_ranges_do_not_depend_on_padding(family):
    """With columns to spare, the same tokens are observed."""
    batch = tiny.batch(family)
    model = tiny.model(family)
    ranges = []
    for wide in (batch, padded(batch, model.pad_id, 5)):
        item = copy.deepcopy(model)
        item.edit([FakeQuantize()])
        calibrate(item.network, [wide])
        ranges.append(bounds(item.network))
    assert ranges[0] == pytest.approx(ranges[1], abs=1e-4)


def padded(batch, pad, count):
    values = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0}
    inputs = {name: torch.nn.functional.pad(batch.inputs[name], (0, count), value=v) for name, v in values.items()}
    return replace(batch, inputs=inputs)


def bounds(network):
    return [float(bound) for layer in observers_of(network) for bound in (layer.low, layer.high)]


def test_the_range_is_the_mean_of_all_batches_in_any_order():
    """The first batch must not count for more than the others."""
    batches = [tiny.batch("bert", seed=seed) for seed in range(5)]
    ranges = {}
    for name, order in {
        "in order": batches,
        "reversed": batches[::-1],
        **{str(n): [batches[n]] for n in range(5)},
    }.items():
        model = tiny.model("bert")
        model.edit([FakeQuantize()])
        calibrate(model.network, order)
        ranges[name] = bounds(model.network)
    mean = np.mean([ranges[str(number)] for number in range(5)], axis=0).tolist()
    assert ranges["in order"] == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert ranges["reversed"] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def sorted_by_length(count=400):
    """Labelled texts of 2 to 13 tokens, sorted by length."""
    lengths = np.sort(np.random.default_rng(0).integers(2, 14, count))
    tokens = np.random.default_rng(1).integers(4, tiny.SIZE, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(tokens, np.zeros(len(tokens), dtype=np.uint8), offsets, np.arange(count) % 2)


def test_calibration_batches_are_like_the_training_set(monkeypatch):
    """As many examples as asked, every batch a random sample of the labelled ones, whatever the order of the file."""
    data, seen = sorted_by_length(), []
    data.targets[::4] = -1  # transfer texts
    model = tiny.model("bert")
    lesson = SimpleNamespace(texts=lambda _: data)
    monkeypatch.setattr(int8, "calibrate", lambda _, batches, **__: seen.extend(batches))
    for seed in (0, 0, 1):
        int8.plan(model, lesson, Int8Training(method="int8", calibration_examples=256, seed=seed)).calibrate(model)
    first, again, other = (seen[start : start + 8] for start in (0, 8, 16))
    members = [np.concatenate([batch.indices.numpy() for batch in batches]) for batches in (first, again, other)]
    assert (members[0] == members[1]).all() and not (members[0] == members[2]).all()
    assert len(set(members[0])) == 256 and (data.targets[members[0]] >= 0).all()
    spread = data.lengths.std()
    for batch in first:
        lengths = batch.mask.sum(1).numpy()
        assert abs(lengths.mean() - data.lengths.mean()) < 4 * spread / len(lengths) ** 0.5
        assert 0.5 * spread < lengths.std() < 1.5 * spread
    assert len(calibration_sample(data, 10_000, 0)) == 300


def test_padding_is_not_observed():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    wild = batch.ids.clone()
    wild[batch.mask == 0] = 70
    ranges = []
    for ids in (batch.ids, wild):
        item = copy.deepcopy(model)
        item.edit([FakeQuantize()])
        calibrate(item.network, [batch.reading(ids)])
        ranges.append(bounds(item.network))
    assert ranges[0] == pytest.approx(ranges[1], abs=1e-5)


def test_ranges_follow_the_data_and_then_stand_still():
    model = quantized("bert")
    schedule, layers = RangeSchedule(0.5), observers_of(model.network)
    schedule.begin(model.network)
    for step in range(4):
        schedule.before_step(step, 4)
        before = [float(layer.high) for layer in layers]
        batch = tiny.batch("bert", seed=step + 5)
        set_real_tokens(layers, batch.inputs)
        logits_of(model.network, batch)
        assert [float(layer.high) for layer in layers] == before  # within a step they stand still
        update_ranges(layers, None)
        schedule.after_step(step, 4)
        assert ([float(layer.high) for layer in layers] == before) == (step >= 2)
        logits_of(model.network, tiny.batch("bert", seed=99))  # dev examples, say
        assert all(layer.pending_range is None for layer in layers)


def test_every_quantised_weight_learns():
    model, batch = quantized("bert"), tiny.batch("bert")
    torch.nn.functional.cross_entropy(logits_of(model.network, batch), batch.targets).backward()
    for name, parameter in model.network.named_parameters():
        if "token_type" not in name:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name
