"""Sliding windows that a family has of its own: computed as patterns are, in torch and in graphs for long texts."""

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lissom
from lissom.export.onnx import export_onnx
from lissom.models.base import load_base
from lissom.models.compressed import logits_of
from lissom.models.config import BaseParams
from lissom.models.flops import flops_by_depth
from lissom.models.patterned import NAME
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny
from tests.unit.test_gguf import model_of
from tests.unit.test_products import LargestTensor

WINDOWED = ("gemma2", "gemma3_text", "mistral", "modernbert", "qwen2")
families = pytest.mark.parametrize("family", WINDOWED)
LONG = tiny.TASK.model_copy(update={"max_length": 2048})


def wide(family):
    return tiny.model(family, task=LONG, max_position_embeddings=2048)


@pytest.mark.parametrize("family", tiny.able("attention"))
def test_only_networks_with_windows_take_the_function(family, tmp_path):
    """A loaded model does, and its files load in plain transformers with the same answers."""
    model = tiny.model(family)
    lissom.save(model, tmp_path / "model")
    for network in (model.network, lissom.load(tmp_path / "model").network):
        assert (network.config._attn_implementation == NAME) == (family in WINDOWED)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert plain.config._attn_implementation != NAME
    base = load_base(BaseParams(model=f"dir:{tmp_path / 'model'}", max_length=16), tiny.TASK, 0)
    assert (base.network.config._attn_implementation == NAME) == (family in WINDOWED)
    batch = tiny.batch(family, 4, 15)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, batch), logits_of(plain, batch), atol=1e-5)


def test_no_scores_of_all_pairs_are_held():
    """Every block of a Mistral has a window."""
    length = 1500
    with LargestTensor() as largest:
        logits_of(wide("mistral").network, tiny.batch("mistral", 1, length)).sum().backward()
    assert 0 < largest.elements < length * length


@families
def test_operations_are_those_of_the_windows(family, monkeypatch):
    network = wide(family).network
    counted = flops_by_depth(network, [16, 1024, 2048])
    monkeypatch.setattr("lissom.models.flops.has_windows", lambda _: False)
    dense = flops_by_depth(network, [16, 1024, 2048])
    assert counted[16] == dense[16] and counted[2048] < dense[2048]
    if family == "mistral":  # linear
        assert counted[2048][0] == pytest.approx(2 * counted[1024][0], rel=0.02)


@pytest.mark.parametrize("family", [family for family in WINDOWED if family != "modernbert"])
@pytest.mark.parametrize("padded", [False, True])
def test_generation_is_transformers_own(family, padded):
    """With a cache that holds the last keys of a window alone, and padding before a text."""
    own, plain = model_of(family).network, model_of(family).network
    own.set_attn_implementation(NAME)
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :3] = 0
    settings = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(own.generate(ids, **settings), plain.generate(ids, **settings))


@families
def test_graphs_for_long_texts_have_the_efficient_form(family, tmp_path):
    model = wide(family)
    export_onnx(model, tmp_path)
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    short = tmp_path / "short"
    short.mkdir()
    export_onnx(tiny.model(family), short)
    dense = [node.op_type for node in onnx.load(short / "model.onnx").graph.node].count("MultiHeadAttention")
    if family != "gemma2":  # its soft cap is not in the kernel
        assert nodes.count("MultiHeadAttention") < dense == 4
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 3), (3, 70), (1, 1300)):
        batch = tiny.batch(family, size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            assert np.abs(actual - logits_of(model.network, batch).numpy()).max() < 1e-4


def test_a_window_that_no_text_exceeds_stays_a_plain_kernel(tmp_path):
    model = tiny.model("mistral", task=LONG, max_position_embeddings=2048, sliding_window=2048)
    export_onnx(model, tmp_path)
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert nodes.count("MultiHeadAttention") == 4 and "Loop" not in nodes
