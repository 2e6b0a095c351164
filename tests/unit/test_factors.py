"""Factorised models: ranks, storage in every family, export, plans and refusals."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lissom.errors import InputError
from lissom.export.onnx import export_onnx
from lissom.factorize.config import KroneckerFactorization, LowRankFactorization, TensorTrainFactorization
from lissom.factorize.low_rank import choose_ranks, fisher_rows
from lissom.factorize.plan import plan
from lissom.models.anatomy import anatomy
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import FakeQuantize, Kronecker, LowRank, StoreIntegers, TensorTrain
from lissom.models.edits.low_rank import fill, largest_rank
from lissom.models.factors import (
    KroneckerEmbedding,
    KroneckerLinear,
    LowRankLinear,
    TensorTrainEmbedding,
    TensorTrainLinear,
)
from lissom.models.linear_algebra import low_rank
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.sampling import calibration_batches
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_gguf import model_of
from tests.unit.test_products import squared

TABLES = tiny.able("word_table")
BERT_ATTENTION = "bert.encoder.layer.1.attention.self.query"


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def layers_of(*shapes):
    torch.manual_seed(0)
    return {str(number): nn.Linear(columns, rows) for number, (rows, columns) in enumerate(shapes)}


def test_ranks_by_share_energy_and_budget():
    layers = layers_of((32, 32), (64, 32), (32, 64))
    assert choose_ranks(layers, {}, {}, 0.5, "ratio") == {"0": 8, "1": 10, "2": 10}
    with torch.no_grad():
        layers["0"].weight.copy_(torch.randn(32, 2) @ torch.randn(2, 32) + 1e-3 * torch.randn(32, 32))
    energy = choose_ranks(layers, {}, {}, 0.99, "energy")
    assert energy["0"] <= 2 and "1" not in energy  # of random matrices, the rank would save nothing
    total = sum(layer.weight.numel() for layer in layers.values())
    for keep in (0.2, 0.5):
        ranks = choose_ranks(layers, {}, {}, keep, "budget")
        used = sum(rank * sum(layers[path].weight.shape) for path, rank in ranks.items())
        assert keep * total - 96 <= used <= keep * total
        assert ranks["0"] <= 3  # more would lower the error of that matrix by nothing
    with pytest.raises(InputError, match=r"allows 5 weights, and rank 1 of every projection has 256; raise keep"):
        choose_ranks(layers, {}, {}, 0.001, "budget")
    assert largest_rank(768, 768) == 383 and largest_rank(768, 3072) == 614


EDITS = {
    "low_rank": lambda paths: LowRank(ranks=dict.fromkeys(paths, 6)),
    "kronecker": lambda paths: Kronecker(shapes=dict.fromkeys(paths, (2, 4)), terms=2),
    "tensor_train": lambda paths: TensorTrain(cores=2, ranks=dict.fromkeys(paths, 3)),
}


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("name", EDITS)
def test_every_family_is_factorised_and_reloaded(family, name, tmp_path):
    from lissom.models.sites import projections_of

    model, batch = tiny.model(family), tiny.batch(family, 4, 9)
    paths = [*projections_of(model.network, "ffn"), *projections_of(model.network, "attention")]
    before = anatomy(model.network).total
    model.edit([EDITS[name](paths)])
    with torch.no_grad():
        edited = logits_of(model.network, batch)
    save(model, tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), edited)
    assert anatomy(again.network).total < before


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("name", ["kronecker", "tensor_train"])
def test_tables_are_factorised_and_tied_heads_follow(family, name, tmp_path):
    model, batch = tiny.model(family), tiny.batch(family, 4, 9)
    model.edit([Kronecker(table=4) if name == "kronecker" else TensorTrain(cores=2, table=6)])
    with torch.no_grad():
        edited = logits_of(model.network, batch)
    save(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path).network, batch), edited)
    kinds = [type(module) for module in model.network.modules()]
    assert (KroneckerEmbedding if name == "kronecker" else TensorTrainEmbedding) in kinds


@pytest.mark.parametrize("edit", [Kronecker(table=4), TensorTrain(cores=3, table=4)], ids=["kronecker", "tensor_train"])
def test_a_tied_head_multiplies_with_factors(edit, tmp_path):
    """With the same logits as the table's rows give; the exported graph has no table."""
    model = model_of("llama")
    model.edit([edit])
    table = model.network.get_input_embeddings()
    hidden = torch.randn(2, 5, model.network.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model.network.lm_head(hidden), hidden @ table.matrix().T, atol=1e-5)
    export_onnx(model, tmp_path)
    import onnx

    sizes = [np.prod(tensor.dims) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert max(sizes) < table.num_embeddings * table.embedding_dim / 2


@pytest.mark.parametrize("quantize", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("name", EDITS)
def test_the_file_answers_as_torch_without_the_large_matrix(name, quantize, tmp_path):
    from lissom.models.sites import projections_of

    model = tiny.model("bert")
    model.edit([EDITS[name](projections_of(model.network, "ffn")), Kronecker(table=4)])
    if quantize:
        model.edit([FakeQuantize()])
        calibrate(model.network, [tiny.batch("bert")])
        model.edit([StoreIntegers()])
    export_onnx(model, tmp_path)
    import onnx

    sizes = [np.prod(tensor.dims) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert max(sizes) <= max(32 * 32 * 3, tiny.SIZE * 8)  # of an attention, or the thin table
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch("bert", size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < (0.1 if quantize else 1e-4)


@pytest.mark.parametrize("edit", [TensorTrain(cores=3, table=4), TensorTrain(cores=2, table=6)], ids=str)
def test_the_file_looks_words_up_in_a_train(edit, tmp_path):
    model = tiny.model("bert")
    model.edit([edit])
    export_onnx(model, tmp_path)
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 2), (3, 11), (2, 5)):
        batch = tiny.batch("bert", size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-4


@pytest.mark.parametrize("weighting", ["none", "inputs", "fisher"])
@pytest.mark.parametrize("by", ["ratio", "energy", "budget"])
def test_low_rank_is_planned_applied_and_trained(by, weighting, lesson, tmp_path):
    params = LowRankFactorization.model_validate(
        {"method": "low_rank", "by": by, "keep": 0.6, "weighting": weighting, "training": SHORT}
    )
    model = tiny.model("bert")
    recipe = plan(model, lesson, params)
    compress(model, recipe, lesson, LiveTeacher(tiny.model("bert").network), params.training)
    layers = [module for module in model.network.modules() if isinstance(module, LowRankLinear)]
    assert layers and recipe.facts["kept"] < 1
    save(model, tmp_path / "model")
    with torch.no_grad():
        batch = tiny.batch("bert")
        assert torch.equal(logits_of(load(tmp_path / "model").network, batch), logits_of(model.network.eval(), batch))


def test_weights_of_rows_choose_the_ranks():
    """A matrix whose heavy rows have rank 2 needs no more; plainly it would."""
    layers = layers_of((32, 32))
    heavy = torch.ones(32)
    heavy[2:] = 1e-4
    plain = choose_ranks(layers, {}, {}, 0.7, "energy").get("0", 99)
    assert choose_ranks(layers, {}, {"0": heavy}, 0.7, "energy")["0"] <= 2 < plain


def test_fisher_information_is_of_single_examples(lesson):
    """The root of the summed squares of every example's own gradient; of a mean gradient it would be less."""
    model = tiny.model("bert")
    path = "bert.encoder.layer.1.intermediate.dense"
    layers = {path: model.network.get_submodule(path)}
    batches = calibration_batches(model, lesson, 6, 0, 1)
    found = fisher_rows(model.network, layers, batches, model.manifest.task)[path]
    total = torch.zeros(layers[path].out_features)
    for batch in batches:
        loss = model.manifest.task.loss(logits_of(model.network, batch), batch.targets)
        (gradient,) = torch.autograd.grad(loss, layers[path].weight)
        total += gradient.square().sum(1)
    assert len(batches) == 6 and torch.allclose(found.float(), total.sqrt(), rtol=1e-4)
    at_once = fisher_rows(model.network, layers, calibration_batches(model, lesson, 6, 0), model.manifest.task)[path]
    assert at_once.sum() < 0.9 * found.sum()


def test_a_low_rank_layer_is_its_matrix_and_bias():
    layer = nn.Linear(12, 10)
    factors = LowRankLinear(12, 10, 10, bias=True)
    fill(factors, *low_rank(layer.weight, 10), layer.bias)
    value = torch.randn(3, 12)
    assert torch.allclose(factors(value), layer(value), atol=1e-5)


def test_weighted_by_inputs_outputs_change_less(lesson):
    changes = []
    for weighting in ("none", "inputs"):
        model, wanted = tiny.model("bert"), logits_of(tiny.model("bert").network, tiny.batch("bert"))
        params = LowRankFactorization(method="low_rank", keep=0.5, weighting=weighting, training=None)
        compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert").network), None)
        data = lesson.texts(model)
        from lissom.data.batches import collate

        batch = collate(data, np.arange(32), model.pad_id)
        with torch.no_grad():
            changes.append(squared(logits_of(model.network, batch) - logits_of(tiny.model("bert").network, batch)))
    assert wanted.shape[1] == 3 and changes[1] < changes[0]


@pytest.mark.parametrize(
    "params",
    [
        KroneckerFactorization(method="kronecker", attention=(4, 4), ffn=(2, 4), table=4, training=None),
        TensorTrainFactorization(method="tensor_train", cores=2, attention=2, ffn=2, table=6, training=None),
    ],
    ids=["kronecker", "tensor_train"],
)
def test_other_products_are_planned(params, lesson):
    model, before = tiny.model("bert"), anatomy(tiny.model("bert").network).total
    compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert").network), None)
    kinds = {type(module) for module in model.network.modules()}
    assert kinds & {KroneckerLinear, TensorTrainLinear} and anatomy(model.network).total < before


def test_ranks_of_trains_follow_from_an_error(lesson):
    params = TensorTrainFactorization(method="tensor_train", cores=2, ffn=1, error=0.8, training=None)
    before = {name: value.clone() for name, value in tiny.model("bert").network.state_dict().items()}
    model = tiny.model("bert")
    (edit,) = plan(model, lesson, params).edits
    assert len(set(edit.ranks.values())) > 1 or min(edit.ranks.values()) > 1
    model.edit([edit])
    layers = [module for module in model.network.modules() if isinstance(module, TensorTrainLinear)]
    names = [name for name, module in model.network.named_modules() if isinstance(module, TensorTrainLinear)]
    assert layers and edit.table > 1 and not any("query" in path for path in edit.ranks)
    for name, layer in zip(names, layers, strict=True):
        weight = before[f"{name}.weight"]
        assert (weight - layer.matrix()).norm() <= 0.8 * weight.norm()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            LowRank(ranks={BERT_ATTENTION: 16}),
            r"rank 16 saves nothing on .*query, 32 x 32: 1,024 weights instead of 1,024; .* is 15",
        ),
        (LowRank(ranks={"bert.nowhere": 2}), "there is no layer bert.nowhere"),
        (Kronecker(shapes={BERT_ATTENTION: (5, 4)}), "does not divide"),
        (Kronecker(shapes={BERT_ATTENTION: (8, 4)}, terms=20), "20 products with 8 x 4 save nothing"),
        (TensorTrain(cores=2, ranks={BERT_ATTENTION: 99}), "rank 99 saves nothing"),
    ],
)
def test_what_saves_nothing_is_refused_with_the_numbers(edit, message):
    with pytest.raises(InputError, match=message):
        tiny.model("bert").edit([edit])


def test_nothing_is_factorised_twice():
    model = tiny.model("bert")
    model.edit([LowRank(ranks={BERT_ATTENTION: 4}), Kronecker(table=4)])
    with pytest.raises(InputError, match="is a LowRankLinear, not a plain projection"):
        model.edit([LowRank(ranks={BERT_ATTENTION: 2})])
    with pytest.raises(InputError, match="the word table is a KroneckerEmbedding already"):
        model.edit([TensorTrain(table=4)])
    for kind, cls in (("kronecker", KroneckerFactorization), ("tensor_train", TensorTrainFactorization)):
        with pytest.raises(ValidationError, match="all null"):
            cls(method=kind, attention=None, ffn=None, table=None)
