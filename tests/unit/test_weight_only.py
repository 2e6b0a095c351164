"""Weights in groups: bounds, GPTQ and AWQ against plain rounding, storage, and the exported kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lissom.errors import InputError
from lissom.export.kernels import count_kernels
from lissom.export.onnx import export_onnx
from lissom.models.calibration import input_grams
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import GroupWeights
from lissom.models.grouped import GroupedLinear, GroupGrid
from lissom.quantize.awq import awq, output_error
from lissom.quantize.compact_config import WeightOnly
from lissom.quantize.gptq import gptq
from lissom.quantize.plan import plan
from lissom.serving.classifier import OnnxClassifier
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

ROUNDINGS = ("nearest", "mse", "gptq", "awq")


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def correlated(rows=24, columns=48, count=400):
    """A weight, inputs whose features are alike and of different sizes, and their second moments."""
    torch.manual_seed(0)
    inputs = torch.randn(count, 12) @ torch.randn(12, columns) + 0.3 * torch.randn(count, columns)
    inputs *= torch.logspace(-1, 1, columns)
    return torch.randn(rows, columns), inputs, inputs.double().T @ inputs.double() / count


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("clip", [False, True])
def test_rounding_is_bounded_and_zero_is_exact(bits, clip):
    grid, weight = GroupGrid(bits, 16, clip), torch.randn(5, 64)
    weight[0], weight[1, :16] = 0, weight[1, :16].abs() + 1
    groups = weight.view(5, 4, 16)
    scales, zeros = grid.parameters(groups)
    integers = grid.integers(groups, scales, zeros)
    assert integers.min() >= grid.low and integers.max() <= grid.high and (scales > 0).all()
    assert (zeros == zeros.round()).all() and (grid.floats(zeros[..., None], scales, zeros) == 0).all()
    assert (grid.rounded(weight)[0] == 0).all()
    if not clip:  # and the scale is a half, so that a bound is a little wider
        error, ends = (grid.floats(integers, scales, zeros) - groups).abs() / scales[..., None], (grid.low, grid.high)
        inner = (integers != ends[0]) & (integers != ends[1])
        assert error[inner].max() <= 0.501 and error.max() <= 1.01, "rounded to the nearest, a step off at the ends"
    plain = GroupGrid(bits, 16).rounded(weight)
    assert (grid.rounded(weight) - weight).square().sum() <= (plain - weight).square().sum() + 1e-6


def test_smaller_groups_err_less():
    weight = torch.randn(20, 128) * torch.rand(20, 128)
    errors = [float((GroupGrid(4, size).rounded(weight) - weight).norm()) for size in (128, 32, 8)]
    assert errors[0] > errors[1] > errors[2]


def test_a_group_divides_the_inputs():
    assert [GroupGrid(4, 64).size(count) for count in (48, 64, 96, 100, 7)] == [48, 64, 48, 50, 7]
    assert [GroupGrid(4, 64).size(count) for count in (307, 209, 614)] == [307, 19, 307], "no group of one or two"


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_do_not_depend_on_the_size_of_weights(bits):
    weight = torch.randn(16, 64)
    errors = [
        float((GroupGrid(bits, 32).rounded(weight * size) - weight * size).norm() / size) for size in (1, 1e-2, 1e-3)
    ]
    assert max(errors) < 1.1 * errors[0]


@pytest.mark.parametrize("size", [8, 16, 48])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_changes_outputs_less_than_rounding(bits, size):
    weight, inputs, gram = correlated()
    grid = GroupGrid(bits, size)
    integers, scales, zeros = gptq(weight, gram, grid)
    assert integers.min() >= grid.low and integers.max() <= grid.high
    fitted = grid.floats(integers.view(24, -1, size), scales, zeros).flatten(1)
    errors = [float(((w - weight).double() @ inputs.double().T).square().sum()) for w in (fitted, grid.rounded(weight))]
    assert errors[0] < 0.2 * errors[1]


def test_gptq_of_independent_inputs_is_rounding():
    """Nothing to make up for: H is diagonal."""
    weight, grid = torch.randn(6, 32), GroupGrid(4, 8)
    integers, scales, zeros = gptq(weight, torch.eye(32, dtype=torch.float64), grid)
    fitted = grid.floats(integers.view(6, -1, 8), scales, zeros).flatten(1)
    assert torch.allclose(fitted.float(), grid.rounded(weight), atol=1e-6)


def test_inputs_that_never_occur_do_no_harm():
    weight, inputs, _ = correlated()
    inputs[:, 5] = 0
    tensors = gptq(weight, inputs.double().T @ inputs.double(), GroupGrid(4, 8))
    assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_awq_is_never_worse_than_rounding():
    weight, _, gram = correlated()
    for bits in (2, 3, 4):
        grid = GroupGrid(bits, 16)
        factors = awq(weight, gram, grid).double()
        errors = [
            output_error(rounded - weight, gram)
            for rounded in (grid.rounded(weight * factors) / factors, grid.rounded(weight.double()))
        ]
        assert errors[0] < errors[1]


def test_second_moments_leave_padding_out():
    model = tiny.model("bert")
    layers = {"query": model.network.bert.encoder.layer[1].attention.self.query}
    batch = tiny.batch("bert")
    wild = batch.ids.clone()
    wild[batch.mask == 0] = 70
    grams = [input_grams(model.network, layers, [batch.reading(ids)])["query"] for ids in (batch.ids, wild)]
    assert torch.allclose(*grams, atol=1e-6) and grams[0].shape == (32, 32)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert", "llama"])
def test_weights_are_stored_and_reloaded(family, rounding, lesson, tmp_path):
    model, batch = tiny.model(family), tiny.batch(family)
    params = WeightOnly(method="weight_only", bits=4, group=16, rounding=rounding)
    save(model, tmp_path / "floats")
    compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model(family).network), None)
    save(model, tmp_path / "rounded")
    again = load(tmp_path / "rounded")
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), logits_of(model.network, batch))
    layers = [module for module in model.network.modules() if isinstance(module, GroupedLinear)]
    weights = sum(layer.integers.numel() for layer in layers)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("floats", "rounded")]
    assert len(layers) >= 16 and sizes[0] - sizes[1] > 2.7 * weights
    assert not [name for name, m in again.network.named_modules() if type(m) is nn.Linear and m.out_features != 3]


@pytest.mark.parametrize("kernel", ["float", "packed"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("rounding", ["nearest", "awq"])
def test_the_file_answers_as_torch(rounding, kernel, bits, lesson, tmp_path):
    model = tiny.model("bert")
    params = WeightOnly(method="weight_only", bits=bits, group=16, rounding=rounding, kernel=kernel)
    compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert").network), None)
    export_onnx(model, tmp_path)
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch("bert", size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-4
    kernels = count_kernels(tmp_path / "model.onnx")
    packed = kernel == "packed" and bits != 3
    assert kernels["MatMulNBits"] == (25 if packed else 0)  # of four blocks six each, and the pooler
    if not packed:
        # Of words, segments and positions, and the first token twice; matrices are unpacked when the session starts.
        assert kernels["Gather"] <= 5 and kernels["BitwiseOr"] == 0


def test_a_weight_that_two_products_share_is_packed_once(lesson, tmp_path):
    """DeBERTa projects words and relative positions by one matrix."""
    model = tiny.model("deberta-v2")
    params = WeightOnly(method="weight_only", bits=4, group=16, kernel="packed")
    compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("deberta-v2").network), None)
    export_onnx(model, tmp_path)
    batch = tiny.batch("deberta-v2", 3, 11)
    classifier = OnnxClassifier(tmp_path)
    actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    with torch.no_grad():
        assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-3


@pytest.mark.parametrize("rounding", ["nearest", "mse"])
def test_what_was_trained_is_stored(rounding, lesson, tmp_path):
    training = {key: value for key, value in SHORT.items() if key != "precision"} | {"precision": "float32"}
    params = WeightOnly.model_validate(
        {"method": "weight_only", "bits": 2, "group": 16, "rounding": rounding, "training": training}
    )
    model, batch = tiny.model("bert"), tiny.batch("bert")
    recipe, trained = plan(model, lesson, params), []

    def finish(finished):
        with torch.no_grad():
            trained.append(logits_of(finished.network.eval(), batch))
        return recipe.finish(finished)

    before = model.network.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
    compress(
        model, replace(recipe, finish=finish), lesson, LiveTeacher(tiny.model("bert").network),
        params.training,
    )  # fmt: skip
    layer = model.network.bert.encoder.layer[0].attention.self.query
    assert isinstance(layer, GroupedLinear) and not torch.equal(layer.matrix(), before)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, batch), trained[0], atol=1e-5)


@pytest.mark.parametrize("changes", [{"average_bits": 4.0}, {"table_bits": None}])
def test_nothing_to_round_is_refused(changes, lesson):
    params = WeightOnly.model_validate({"method": "weight_only", "keep": ["."], "training": None, **changes})
    with pytest.raises(InputError, match="there is no layer to round"):
        plan(tiny.model("bert"), lesson, params)


def test_layers_may_have_other_bits():
    model = tiny.model("bert")
    path = "bert.encoder.layer.2.output.dense"
    edit = GroupWeights(bits=4, layers={path: 8})
    model.edit([edit])
    bits = {name: m.bits for name, m in model.network.named_modules() if isinstance(m, GroupedLinear)}
    assert bits.pop(path) == 8 and set(bits.values()) == {4}


def test_a_calibrated_rounding_is_not_trained():
    with pytest.raises(ValidationError, match="made for rounding without one"):
        WeightOnly.model_validate({"method": "weight_only", "rounding": "gptq", "training": {}})


@pytest.mark.parametrize("rounding", ["nearest", "mse", "gptq", "awq"])
def test_a_correction_makes_up_for_the_rounding(rounding, lesson, tmp_path):
    """The larger its rank, the nearer the outputs; the whole rank restores the weights to half precision."""
    exact, batches = tiny.model("bert"), [tiny.batch("bert", seed=seed) for seed in (1, 2)]
    path = "bert.encoder.layer.1.intermediate.dense"
    weight = exact.network.get_submodule(path).weight.detach()
    gram = input_grams(exact.network, {path: exact.network.get_submodule(path)}, batches)[path].float()
    lost = []
    for rank in (None, 2, 8, 15):
        model = tiny.model("bert")
        params = WeightOnly(
            method="weight_only", bits=2, group=16, rounding=rounding, correction=rank, calibration_examples=64
        )
        compress(model, plan(model, lesson, params), lesson, LiveTeacher(exact.network), None)
        error = model.network.get_submodule(path).matrix() - weight
        lost.append(float(((error @ gram) * error).sum() if rounding in ("gptq", "awq") else error.square().sum()))
    assert lost[0] > lost[1] > lost[2] > lost[3]
    save(model, tmp_path / "model")
    with torch.no_grad():
        again = logits_of(load(tmp_path / "model").network, batches[0])
        assert torch.equal(again, logits_of(model.network.eval(), batches[0]))


@pytest.mark.parametrize("kernel", ["float", "packed"])
def test_the_file_has_the_correction(kernel, tmp_path):
    model = tiny.model("bert")
    model.edit([GroupWeights(bits=2, group=16, correction=4, packed=kernel == "packed")])
    export_onnx(model, tmp_path)
    classifier, batch = OnnxClassifier(tmp_path), tiny.batch("bert", 3, 11)
    actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    with torch.no_grad():
        assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-4


def test_a_correction_larger_than_the_matrix_is_refused():
    with pytest.raises(InputError, match="rank 16 saves nothing"):
        tiny.model("bert").edit([GroupWeights(correction=16)])
    with pytest.raises(ValidationError, match="correction with a training"):
        WeightOnly.model_validate({"method": "weight_only", "correction": 4, "training": {}})
