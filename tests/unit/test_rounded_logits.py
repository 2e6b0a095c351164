"""The projection that returns logits, rounded like all others: stored, exported and served."""

import numpy as np
import pytest
import torch

from lissom.export.onnx import export_onnx
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import FakeQuantize, GroupWeights, StoreIntegers
from lissom.models.families import classifier_of
from lissom.models.sites import tied_head
from lissom.quantize.int8 import calibrate
from tests.unit import tiny
from tests.unit.test_gguf import model_of


def made(kind):
    """A classifier, or a language model whose head is not tied."""
    model = tiny.model(kind) if kind in ("bert", "modernbert") else model_of(kind, tied=False)
    batch = tiny.batch("bert" if kind == "modernbert" else kind)
    batch.inputs.pop("token_type_ids", None) if kind != "bert" else None
    return model, batch


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama"])
@pytest.mark.parametrize("form", ["int8", "groups"])
def test_it_is_smaller_and_answers_alike(kind, form, tmp_path):
    sizes, kernels = [], []
    for logits in (False, True):
        model, batch = made(kind)
        with torch.no_grad():
            exact = logits_of(model.network.eval(), batch)
        head = classifier_of(model.network)
        edit = FakeQuantize(logits=logits) if form == "int8" else GroupWeights(bits=8, group=16, logits=logits)
        model.edit([edit])
        if form == "int8":
            calibrate(model.network, [batch])
            model.edit([StoreIntegers()])
        folder = tmp_path / str(logits)
        save(model, folder / "model")
        again = load(folder / "model")
        assert (type(again.network.get_submodule(head)) is torch.nn.Linear) != logits
        with torch.no_grad():
            rounded = logits_of(model.network, batch)
            assert torch.equal(logits_of(again.network, batch), rounded)
        assert (rounded - exact).abs().max() < (1.5 if kind == "llama" else 0.5)
        (folder / "export").mkdir()
        file = export_onnx(again, folder / "export")
        assert np.abs(file.logits(batch) - rounded.numpy()).max() < (0.5 if form == "int8" else 1e-3)
        sizes.append((folder / "model" / "model.safetensors").stat().st_size)
        kernels.append(file.kernels())
    assert kernels[1] - kernels[0] == (form == "int8")
    assert kind != "llama" or sizes[1] < sizes[0]  # a classifier of three rows is smaller than what describes it


def test_one_that_is_tied_has_the_tables_rows():
    model = model_of("llama")
    assert tied_head(model.network) == "lm_head"
    paths = GroupWeights(bits=8, group=16, logits=True).paths(model.network)
    assert paths == GroupWeights(bits=8, group=16).paths(model.network)
