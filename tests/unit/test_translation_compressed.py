"""Encoder-decoders whose matrices are factors, codes, integers or halves: they answer, are stored and exported."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from lissom.data.batches import collate
from lissom.data.tables import write_table
from lissom.export.onnx import export_onnx
from lissom.models.codebooks import CodebookEmbedding
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import (
    FakeQuantize,
    GroupWeights,
    HalfWeights,
    Kronecker,
    LowRank,
    ProductQuantize,
    StoreIntegers,
    TensorTrain,
)
from lissom.models.fused import separate
from lissom.models.halves import HalfEmbedding
from lissom.models.integers import IntegerEmbedding
from lissom.models.sites import projections_of
from lissom.models.students import config_values
from lissom.quantize.compact_config import ProductQuantization
from lissom.quantize.int8 import calibrate
from lissom.quantize.plan import plan
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit.distill.recipes import SHORT
from tests.unit.test_translation import FAMILIES, TASK, batch_of, model_of, pairs_of

FORMS = ("rank", "products", "trains", "groups", "codes", "halves", "integers")


def compressed(family, form, folder):
    model = model_of(family)
    edit(model, form, folder)
    return model


def edit(model, form, folder):
    paths = [path for part in ("attention", "ffn") for path in projections_of(model.network, part)]
    edits = {
        "rank": [LowRank(ranks=dict.fromkeys(paths, 4))],
        "products": [Kronecker(shapes=dict.fromkeys(paths, (4, 4)))],
        "trains": [TensorTrain(cores=2, ranks=dict.fromkeys(paths, 3))],
        "groups": [GroupWeights(bits=4, group=8, table_bits=8)],
        "codes": [ProductQuantize(codes=16, ffn=4, attention=2, table=4)],
        "halves": [HalfWeights()],
        "integers": [FakeQuantize()],
    }
    model.edit(edits[form])
    if form == "integers":
        calibrate(model.network, [batch_of(model, folder, 32)])
        model.edit([StoreIntegers()])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_stored_and_reloaded(family, form, tmp_path):
    model = compressed(family, form, tmp_path)
    batch = batch_of(model, tmp_path, 8)
    with torch.no_grad():
        expected = logits_of(model.network.eval(), batch)
    save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path / "model").network, batch), expected)


STORED = {"groups": IntegerEmbedding, "codes": CodebookEmbedding, "halves": HalfEmbedding, "integers": IntegerEmbedding}


@pytest.mark.parametrize("form", STORED)
def test_the_word_table_of_a_bart_that_does_not_scale_it_is_stored_too(form, tmp_path):
    """It is a layer that could scale what it returns."""
    model = model_of("bart")
    model.network.config.scale_embedding = False
    plain = AutoModelForSeq2SeqLM.from_config(model.network.config).eval()
    model.network = separate(copy.deepcopy(plain))
    model.network.tie_weights()
    model.manifest = model.manifest.model_copy(update={"base_config": config_values(model.network.config)})
    batch = batch_of(model, tmp_path)
    inputs = {name: value for name, value in batch.inputs.items() if name != "token_type_ids"}
    with torch.no_grad():
        assert torch.equal(logits_of(model.network, batch), batch.outputs_of(plain(**inputs).logits))
    edit(model, form, tmp_path)
    shared = model.network.model.shared
    assert type(shared) is STORED[form] and model.network.model.decoder.embed_tokens is shared
    assert model.network.lm_head.table is shared
    with torch.no_grad():
        expected = logits_of(model.network.eval(), batch)
    save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path / "model").network, batch), expected)


@pytest.mark.parametrize("form", ["rank", "groups", "codes"])
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_the_graphs_score_as_torch_does(family, form, tmp_path):
    model = compressed(family, form, tmp_path)
    folder = tmp_path / "export"
    folder.mkdir()
    file = export_onnx(model, folder)
    data = TASK.encode([write_table(tmp_path / "d.arrow", pairs_of(8, 5))], model.tokenizer, tmp_path / "d")
    batch = collate(data, np.arange(8), model.pad_id)
    with torch.no_grad():
        expected = logits_of(model.network.eval(), batch).numpy()
    assert np.abs(np.asarray(file.logits(batch)) - expected).max() < 1e-3


def test_codes_are_trained_part_by_part(tmp_path):
    model, teacher = model_of("t5"), model_of("t5")
    tables = {
        name: write_table(tmp_path / f"{name}.arrow", pairs_of(count, seed))
        for name, count, seed in (("train", 32, 0), ("transfer", 0, 1), ("dev", 8, 2))
    }
    lesson = Lesson(tables=tables, scratch=tmp_path)
    params = ProductQuantization.model_validate(
        {"method": "product", "codes": 16, "ffn": 4, "attention": 2, "table": 4, "training": SHORT}
    )
    result = compress(model, plan(model, lesson, params), lesson, LiveTeacher(teacher.network), params.training)
    assert result.metrics["ratio_of_quantised"] > 1
