"""Encoder-decoders whose matrices are factors, codes, integers or halves: they answer, are stored and exported."""

import numpy as np
import pytest
import torch

from lissom.data.batches import collate
from lissom.data.tables import write_table
from lissom.export.onnx import export_onnx
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
from lissom.models.sites import projections_of
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
    return model


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
