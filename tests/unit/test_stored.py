"""Quantised models in their final form: trained = stored = reloaded = exported, and as small as claimed."""

import copy

import numpy as np
import pytest
import torch

from lissom.errors import InputError
from lissom.export.kernels import count_kernels
from lissom.export.onnx import export_onnx
from lissom.models.anatomy import anatomy
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import FactorizeWordTable, FakeQuantize, KeepHeads, StoreIntegers
from lissom.quantize.config import Int8Training
from lissom.quantize.int8 import calibrate, fake_quantised
from lissom.quantize.observers import least_error_range, percentile_range, range_of
from lissom.quantize.smoothing import smooth
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny

EDITS = {
    "8 bits": FakeQuantize(weight_bits=8),
    "4 bits": FakeQuantize(weight_bits=4, table_bits=4),
    "3 bits": FakeQuantize(weight_bits=3, weight_scale="mse"),
    "ternary": FakeQuantize(weight_bits=2, weight_scale="mean"),
    "signs": FakeQuantize(weight_bits=1, weight_scale="mean"),
    "learned": FakeQuantize(weight_bits=4, weight_scale="learned", input_bits=4),
    "dynamic": FakeQuantize(inputs="dynamic"),
    "smoothed": FakeQuantize(smooth=True),
    "smoothed, 4-bit inputs": FakeQuantize(smooth=True, input_bits=4),
}


def quantised(family, edit, *, factorized=True):
    model = tiny.model(family)
    model.edit(tiny.suited(family, [FactorizeWordTable(rank=8)] if factorized else []))
    model.edit([edit])
    batches = [tiny.batch(family, seed=seed) for seed in (1, 2)]
    if edit.smooth:
        smooth(model.network, batches, 0.5)
    if edit.inputs == "static":
        calibrate(model.network, batches)
    return model


def logits(model, batch):
    with torch.no_grad():
        return logits_of(model.network.eval(), batch)


def similar(first, second):
    """A value in the middle between two points of a grid may be rounded up by one and down by the other."""
    return float(np.median(np.abs(np.asarray(first) - np.asarray(second)))) < 1e-4


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("name", ["4 bits", "learned"])
def test_every_family_is_stored_and_reloaded(family, name, tmp_path):
    model, batch = quantised(family, EDITS[name]), tiny.batch(family, 4, 9)
    trained, count = logits(model, batch), anatomy(model.network).total
    save(model, tmp_path / "floats")
    model.edit([StoreIntegers()])
    stored = logits(model, batch)
    assert similar(trained, stored)
    assert anatomy(model.network).total == pytest.approx(count, rel=0.06)  # learned steps are weights
    save(model, tmp_path / "integers")
    again = load(tmp_path / "integers")
    assert torch.equal(logits(again, batch), stored)
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("floats", "integers")]
    assert sizes[1] < sizes[0]


def test_products_of_the_same_input_learn_one_step_for_it():
    """So that their inputs are quantised once, after any training."""
    model = quantised("bert", EDITS["learned"])
    for layer in model.network.bert.encoder.layer:
        attention = layer.attention.self
        assert attention.query.input_step is attention.key.input_step is attention.value.input_step
        assert attention.query.input_step is not layer.attention.output.dense.input_step
    steps = [name for name, _ in model.network.named_parameters() if name.endswith("input_step")]
    assert len(steps) == 4 * 4 + 2  # of every block four, the table's projection, the pooler


@pytest.mark.parametrize("name", EDITS)
def test_the_file_answers_as_the_stored_model(name, tmp_path):
    model = quantised("bert", EDITS[name])
    model.edit([StoreIntegers()])
    exported = export_onnx(model, tmp_path)
    assert exported.kernels() == 4 * 4 + 2  # of every block four, the table's projection, the pooler
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch("bert", size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        assert similar(actual, logits(model, batch))
    kernels = count_kernels(tmp_path / "model.onnx")
    quantisers = sum(count for kernel, count in kernels.items() if "Quantize" in kernel)
    edit = EDITS[name]
    looked_up = (edit.inputs, edit.input_bits) == ("static", 8)  # rows that are quantised in the file or at the start
    assert quantisers == 4 * 4 + 2 - looked_up and kernels["QAttention"] == 4  # one for query, key and value
    assert kernels["BitwiseOr"] == kernels["Slice"] - 1 == 0  # unpacking is done when the session starts


def test_fewer_bits_are_smaller_files(tmp_path):
    sizes = {}
    for name in ("8 bits", "4 bits", "3 bits", "ternary", "signs"):
        model = tiny.model("bert", task=tiny.TASK)
        model.edit([EDITS[name].model_copy(update={"table_bits": 8})])
        calibrate(model.network, [tiny.batch("bert")])
        model.edit([StoreIntegers()])
        save(model, tmp_path / name)
        integers = sum(m.integers.numel() for m in model.network.modules() if hasattr(m, "integers"))
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
    for name, bits in (("4 bits", 4), ("3 bits", 3), ("ternary", 2), ("signs", 1)):
        assert sizes["8 bits"] - sizes[name] == pytest.approx(integers * (8 - bits) / 8, rel=0.05)


def test_smoothing_evens_out_the_features_and_changes_nothing_else():
    """Without rounding the network is the same; with it, outliers of one feature do less harm."""
    errors = {}
    for strength in (None, 0.5):
        model = tiny.model("bert")
        for layer in model.network.bert.encoder.layer:  # outliers in one feature, as large models have them
            layer.output.LayerNorm.weight.data[3] = 30
        batch, wanted = tiny.batch("bert"), logits(model, tiny.batch("bert"))
        model.edit([FakeQuantize(smooth=strength is not None)])
        if strength is not None:
            smooth(model.network, [batch], strength)
            exact = copy.deepcopy(model)
            exact.network.double()
            assert torch.allclose(logits(exact, batch), wanted.double(), atol=2e-3)
            attention = model.network.bert.encoder.layer[1].attention.self
            assert torch.equal(attention.query.smoothing, attention.value.smoothing)
            assert attention.query.smoothing.argmax() == 3
        calibrate(model.network, [batch])
        errors[strength] = float((logits(model, batch) - wanted).abs().mean())
    assert errors[0.5] < errors[None]


@pytest.mark.parametrize(("family", "left"), [("bert", 4 * 3 + 1), ("modernbert", 2), ("gpt2", 4), ("llama", 4)])
def test_norms_and_products_divide_the_smoothed_inputs_behind_them(family, left, tmp_path):
    """A norm before a residual sum, an activation, and heads that share values keep their divisions."""
    model = quantised(family, EDITS["smoothed"], factorized=False)
    model.edit([StoreIntegers()])
    export_onnx(model, tmp_path)
    kernels = count_kernels(tmp_path / "model.onnx")
    assert kernels["Div"] == left < kernels["QuantizeLinear"]
    classifier, batch = OnnxClassifier(tmp_path), tiny.batch(family, 3, 11)
    actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    assert similar(actual, logits(model, batch))


@pytest.mark.parametrize(
    ("family", "keep", "changes"),
    [("gpt2", (r"attn",), {}), ("electra", (), {"embedding_size": 16}), ("bert", (r"attention",), {})],
)
def test_smoothed_files_are_valid_whatever_is_kept(family, keep, changes, tmp_path):
    """Where norms before some products are divided, and those before others are not."""
    model, batch = tiny.model(family, **changes), tiny.batch(family, 3, 11)
    model.edit([FakeQuantize(smooth=True, keep=keep)])
    smooth(model.network, [batch], 0.5)
    calibrate(model.network, [batch])
    model.edit([StoreIntegers()])
    export_onnx(model, tmp_path)
    classifier = OnnxClassifier(tmp_path)
    actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    assert similar(actual, logits(model, batch))


def test_steps_that_are_learned_begin_at_those_of_smoothed_weights():
    model, batch = tiny.model("bert"), tiny.batch("bert")
    model.edit([FakeQuantize(smooth=True, weight_bits=4, weight_scale="learned")])
    smooth(model.network, [batch], 0.9)
    for layer in fake_quantised(model.network):
        smoothed = layer.weight * layer.smoothing
        assert not torch.allclose(layer.smoothing, torch.ones_like(layer.smoothing))
        assert torch.allclose(layer.weight_step, layer.rounding.weights.scales(smoothed))


def test_layers_are_kept_in_floats():
    model = tiny.model("bert")
    model.edit([FakeQuantize(keep=(r"layer\.0\.", "word_embeddings"))])
    names = [name for name, module in model.network.named_modules() if module in fake_quantised(model.network)]
    assert names and not any("layer.0." in name for name in names)
    assert type(model.network.bert.embeddings.word_embeddings) is torch.nn.Embedding
    for pattern, message in (("nothing", "matches no layer"), ("(", "no regular expression")):
        with pytest.raises(InputError, match=message):
            tiny.model("bert").edit([FakeQuantize(keep=(pattern,))])


def test_stored_models_are_not_cut():
    model = quantised("bert", EDITS["8 bits"])
    model.edit([StoreIntegers()])
    with pytest.raises(InputError, match="cannot be cut"):
        model.edit([KeepHeads(kept=((0,),) * 4)])
    with pytest.raises(InputError, match="no layer is fake-quantised"):
        model.edit([StoreIntegers()])


def test_ranges_of_observers():
    values = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([100.0])])
    low, high = percentile_range(values, 99.9)
    assert -1 <= low < -0.99 and 0.99 < high < 1.01
    heavy = torch.randn(5000) ** 3
    bounds = least_error_range(heavy, 15)
    whole = heavy.amin(), heavy.amax()
    assert bounds[1] < whole[1]

    def error(low, high):
        from lissom.models.grid import affine_range

        return (torch.fake_quantize_per_tensor_affine(heavy, *affine_range(low, high, 15), 0, 15) - heavy).norm()

    assert error(*bounds) < error(*whole)
    assert range_of(Int8Training(method="int8"))(values)[1] == 100


@pytest.mark.parametrize("width", [384, 768])
def test_no_feature_is_left_out_of_a_range(width):
    """Large inputs: a stride over all values would look at some features only."""
    values = torch.randn(1024, width)
    values[:, 7] *= 40
    low, high = percentile_range(values, 99.99)
    assert high > 20 and low < -20
    assert least_error_range(values, 255)[1] > 40


def test_the_whole_range_covers_all_batches():
    model, ranges = tiny.model("bert"), {}
    for whole in (False, True):
        item = copy.deepcopy(model)
        item.edit([FakeQuantize()])
        calibrate(item.network, [tiny.batch("bert", seed=seed) for seed in range(4)], whole=whole)
        ranges[whole] = [(float(layer.low), float(layer.high)) for layer in fake_quantised(item.network)]
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in zip(ranges[False], ranges[True], strict=True))
    assert ranges[False] != ranges[True]


def test_noise_rounds_a_share_and_evaluation_all():
    """Fan et al. 2020, §4.2; the stored weight is not touched, and the gradient reaches every weight."""
    model = quantised("bert", FakeQuantize(weight_bits=4))
    layer = fake_quantised(model.network)[3]
    before = layer.weight.detach().clone()
    layer.noise = 0.3
    layer.train()
    noisy, rounded = layer.matrix(), layer.rounding.weights.fake(layer.weight, layer._scales(layer.weight))
    share = float((noisy == rounded).float().mean())
    assert share == pytest.approx(0.3, abs=3 * (0.21 / before.numel()) ** 0.5 + 0.02)
    noisy.sum().backward()
    assert (layer.weight.grad != 0).all()
    assert torch.equal(layer.eval().matrix(), rounded) and torch.equal(layer.weight, before)


def test_drawn_signs_have_the_mean_of_the_weight():
    """Hubara et al. 2016, equation 2: the mean is clip(w / scale, -1, 1) times the scale."""
    model = quantised("bert", EDITS["signs"])
    layer = fake_quantised(model.network)[0]
    layer.stochastic = True
    layer.train()
    scale = layer._scales(layer.weight)[:, None]
    mean = torch.stack([layer.matrix().detach() for _ in range(2000)]).mean(0)
    assert torch.allclose(mean, (layer.weight / scale).clamp(-1, 1) * scale, atol=float(5 * scale.max() / 2000**0.5))
