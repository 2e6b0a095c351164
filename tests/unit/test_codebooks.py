"""Product quantisation and halves: K-means, gradients of centroids, noise, storage in every family, exported lookups."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lissom.errors import InputError
from lissom.export.kernels import count_kernels
from lissom.export.onnx import export_onnx
from lissom.models.anatomy import anatomy
from lissom.models.codebooks import (
    CodebookEmbedding,
    CodebookLinear,
    TrainedCodebookLinear,
    decode,
    encode,
    k_means,
    nearest,
)
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import GroupWeights, HalfWeights, LowRank, ProductQuantize
from lissom.quantize.compact_config import Half, ProductQuantization
from lissom.quantize.plan import plan
from lissom.quantize.product import BlockNoise
from lissom.serving.classifier import OnnxClassifier
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
PRODUCT = ProductQuantize(codes=16, ffn=4, attention=2, table=4)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def error(vectors, centroids):
    return float((centroids[nearest(vectors, centroids)] - vectors).square().sum())


def test_more_iterations_never_err_more():
    vectors = torch.randn(600, 4)
    errors = [
        error(vectors, k_means(vectors, 16, count, torch.Generator().manual_seed(0))[0]) for count in (0, 1, 2, 5, 20)
    ]
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_few_distinct_blocks_are_exact():
    weight = torch.randn(5, 8)[torch.randint(0, 5, (30,))]
    codebook, codes = encode(weight, 8, 8, 3, 0)
    assert torch.equal(decode(codebook, codes), weight) and codebook.shape == (8, 8)


def test_blocks_are_neighbours_in_a_row():
    weight = torch.arange(24.0).view(2, 12)
    codebook, codes = encode(weight, 4, 6, 1, 0)
    assert codes.shape == (2, 3) and torch.equal(codebook[codes[1, 0]], weight[1, :4])
    assert torch.equal(decode(codebook, codes), weight)


def test_every_centroid_is_used():
    """Most vectors are nearly the same, so that most centroids start where nothing is nearest."""
    vectors = torch.cat([1e-3 * torch.randn(500, 2), torch.randn(20, 2) + 10])
    _, codes = k_means(vectors, 32, 10, torch.Generator().manual_seed(1))
    assert len(codes.unique()) > 28


def test_single_weights_are_no_worse_than_a_uniform_grid():
    """Blocks of one and 16 centroids are a grid of 4 bits whose points are free; from the uniform ones it only gains."""
    weight = torch.randn(2000, 1)
    uniform = torch.linspace(float(weight.min()), float(weight.max()), 16)[:, None]
    free, _ = k_means(weight, 16, 20, torch.Generator().manual_seed(0))
    assert error(weight, free) < error(weight, uniform)


def test_the_gradient_of_a_centroid_is_the_mean_over_its_blocks():
    layer = TrainedCodebookLinear(nn.Linear(8, 6), 2, 4, 5, 0)
    upstream = torch.randn(6, 8)
    (layer.matrix() * upstream).sum().backward()
    blocks = upstream.view(-1, 2)
    for code in range(4):
        members = blocks[layer.codes.flatten() == code]
        assert torch.allclose(layer.codebook.grad[code], members.mean(0), atol=1e-6)


def test_the_size_is_that_of_codes_and_codebook(tmp_path):
    """768 x 3072 in blocks of 8: 294,912 bytes and 4,096, of 9,437,184."""
    layer = CodebookLinear(torch.zeros(768, 384), torch.zeros(256, 8), None)
    assert layer.in_features == 3072 and layer.represented == 768 * 3072
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) == 294_912 + 4_096


def test_noise_drops_whole_blocks_and_keeps_the_mean():
    torch.manual_seed(0)
    weight, noise = torch.randn(40, 32), BlockNoise(0.25, 8)
    before = weight.clone()
    noisy = torch.stack([noise(weight) for _ in range(500)])
    zero = (noisy.view(500, 40, 4, 8) == 0).all(-1)
    assert torch.equal(zero, (noisy.view(500, 40, 4, 8) == 0).any(-1))
    share = float(zero.float().mean())
    assert share == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / zero.numel()) ** 0.5)
    assert torch.allclose(noisy.mean(0), weight, atol=0.3) and torch.equal(weight, before)
    assert noise.eval()(weight) is weight


@families
@pytest.mark.parametrize("name", ["product", "half"])
def test_every_family_is_stored_and_reloaded(family, name, tmp_path):
    model, batch = tiny.model(family), tiny.batch(family, 4, 9)
    save(model, tmp_path / "floats")
    count = anatomy(model.network).total
    model.edit([PRODUCT if name == "product" else HalfWeights()])
    with torch.no_grad():
        stored = logits_of(model.network, batch)
    save(model, tmp_path / "stored")
    again = load(tmp_path / "stored")
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), stored)
    assert anatomy(again.network).total == count
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("floats", "stored")]
    assert sizes[1] < (0.75 if name == "half" else 0.7) * sizes[0]


@pytest.mark.parametrize("edit", [PRODUCT, HalfWeights(), HalfWeights(type="bfloat16")], ids=str)
def test_the_file_answers_as_torch(edit, tmp_path):
    """Matrices as large as real ones, since torch's exporter computes small constants itself."""
    model = tiny.model("bert", hidden_size=256, intermediate_size=1024, num_hidden_layers=1)
    exports = []
    for name in ("floats", "stored"):
        (tmp_path / name).mkdir()
        if name == "stored":
            model.edit([edit])
        exports.append(export_onnx(model, tmp_path / name))
    classifier = OnnxClassifier(tmp_path / "stored")
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch("bert", size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-4
    before, after = (exported.files["model.onnx"] for exported in exports)
    assert after < (0.55 if isinstance(edit, HalfWeights) else 0.2) * before
    kernels = count_kernels(tmp_path / "stored" / "model.onnx")
    assert kernels["Gather"] <= 6 and kernels["Transpose"] == 0  # matrices are decoded when the session starts


@pytest.mark.parametrize("edit", [PRODUCT, HalfWeights()], ids=lambda edit: edit.kind)
def test_what_is_kept_stays_in_floats(edit, tmp_path):
    """By the word table's path, and by a part of the others'; the rest is stored in the edit's form."""
    model, batch = tiny.model("bert"), tiny.batch("bert")
    patterns = ("word_embeddings$", r"layer\.0\.attention")
    model.edit([edit.model_copy(update={"keep": patterns})])
    plain = [path for path, module in model.network.named_modules() if type(module) in (nn.Linear, nn.Embedding)]
    assert sum("layer.0.attention" in path for path in plain) == 4 and not any(
        "layer.1.attention" in path for path in plain
    )
    assert "bert.embeddings.word_embeddings" in plain
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path).network, batch), logits_of(model.network, batch))
    with pytest.raises(InputError, match="matches no layer"):
        tiny.model("bert").edit([edit.model_copy(update={"keep": ("nowhere",)})])


@pytest.mark.parametrize("family", ["gpt2", "modernbert"])
@pytest.mark.parametrize("part", ["query$", "key$", "value$"])
@pytest.mark.parametrize(
    "edit", [PRODUCT, HalfWeights(), GroupWeights(bits=4, group=8, table_bits=None)], ids=lambda edit: edit.kind
)
def test_one_of_several_fused_projections_is_kept(edit, family, part, tmp_path):
    """Files have transformers' layout, in which they are one matrix."""
    model, batch = tiny.model(family), tiny.batch(family)
    model.edit([edit.model_copy(update={"keep": (part,)})])
    assert any(type(module) is nn.Linear and path.endswith(part[:-1]) for path, module in model.network.named_modules())
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path).network, batch), logits_of(model.network, batch))


def test_halves_are_close_and_half_as_large():
    layer = nn.Linear(64, 64)
    model = tiny.model("bert")
    model.network.bert.encoder.layer[0].output.dense.weight.data[0, 0] = 1e6
    with pytest.raises(InputError, match="set type: bfloat16"):
        model.edit([HalfWeights()])
    from lissom.models.halves import HalfLinear

    half = HalfLinear(layer, torch.float16)
    assert half.halves.element_size() * 2 == layer.weight.element_size()
    normal = layer.weight.abs() > 6.2e-5
    relative = ((half.matrix() - layer.weight) / layer.weight).abs()[normal]
    assert relative.max() <= 2**-11 * 1.001


@pytest.mark.parametrize("noise", [None, 0.1])
def test_parts_are_quantised_one_after_the_other(noise, lesson, tmp_path):
    training = {key: value for key, value in SHORT.items() if key != "precision"}
    params = ProductQuantization.model_validate(
        {"method": "product", "codes": 16, "ffn": 4, "attention": 2, "table": 4, "noise": noise, "training": training}
    )
    model, batch, kinds, trained = tiny.model("bert"), tiny.batch("bert"), [], []
    recipe = plan(model, lesson, params)
    assert recipe.trainings == (3 if noise is None else 4)
    assert recipe.facts["ratio_of_quantised"] > 4

    def between(current, number):
        recipe.between(current, number)
        kinds.append([type(m).__name__ for m in current.network.modules()].count("TrainedCodebookLinear"))

    def finish(finished):
        with torch.no_grad():
            trained.append(logits_of(finished.network.eval(), batch))
        return recipe.finish(finished)

    compress(
        model, replace(recipe, between=between, finish=finish), lesson, LiveTeacher(tiny.model("bert").network),
        params.training,
    )  # fmt: skip
    assert kinds == ([8, 24] if noise is None else [8, 8, 24])
    assert isinstance(model.network.bert.embeddings.word_embeddings, CodebookEmbedding)
    with torch.no_grad():
        stored = logits_of(model.network, batch)
    assert torch.allclose(stored, trained[0], atol=2e-3)  # centroids are rounded to halves
    save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path / "model").network, batch), stored)


def test_without_training_nothing_is_trained(lesson):
    model = tiny.model("bert")
    for params in (
        ProductQuantization(method="product", codes=16, ffn=4, attention=None, table=None, training=None),
        Half(method="half"),
    ):
        result = compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert").network), None)
        assert result.training is None
    kinds = {type(module).__name__ for module in model.network.modules()}
    assert {"CodebookLinear", "HalfLinear", "HalfEmbedding"} <= kinds


def test_what_cannot_be_done_is_refused(lesson):
    factorised = tiny.model("bert")
    factorised.edit([LowRank(ranks={"bert.encoder.layer.0.intermediate.dense": 4})])
    for training in (None, {}):
        with pytest.raises(InputError, match=r"0\.intermediate\.dense is a LowRankLinear, factorised or quantised"):
            plan(
                factorised,
                lesson,
                ProductQuantization.model_validate(
                    {"method": "product", "ffn": 4, "attention": 2, "table": 4, "training": training}
                ),
            )
    of_table = ProductQuantization(method="product", ffn=None, attention=None, training=None)
    with pytest.raises(InputError, match="the word table of this family stays in floats"):
        plan(tiny.model("gemma2"), lesson, of_table)
    params = ProductQuantization(method="product", ffn=5, training=None)
    with pytest.raises(InputError, match=r"blocks of 5 do not divide the 32 inputs of bert\.encoder"):
        plan(tiny.model("bert"), lesson, params)
    with pytest.raises(ValidationError, match="all null"):
        ProductQuantization(method="product", ffn=None, attention=None, table=None)
    with pytest.raises(ValidationError, match="noise needs a training"):
        ProductQuantization(method="product", noise=0.1, training=None)
