"""Patterns in exported graphs: torch's answers at any length, in another runtime, as integers and with a cache."""

import numpy as np
import onnx
import pytest

from lissom.attention.config import FixedRadius
from lissom.errors import InputError
from lissom.export.nodes import bodies, reads
from lissom.export.onnx import export_onnx
from lissom.models.edits import AddExits, FakeQuantize, KeepBlocks
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny
from tests.unit.attention.test_networks import ABLE, LANGUAGE, LOCAL, PATTERNS, answers, model_with

LONG = tiny.TASK.model_copy(update={"max_length": 300})
SHAPES = ((1, 1), (3, 8), (5, 16), (2, 65), (1, 300))
"""Examples and tokens of batches, more and fewer than a pattern's groups; the last two take several turns of a loop."""


def exported(family, patterns, blocks, folder):
    model = model_with(family, patterns, task=LONG, max_position_embeddings=304)
    model.edit([KeepBlocks(kept=blocks)])
    export_onnx(model, folder)
    return model


@pytest.fixture(scope="module", params=PATTERNS)
def of_pattern(request, tmp_path_factory):
    """A BERT with a pattern, and the folder of its export."""
    blocks = (1, 2) if request.param == "of some blocks and heads" else (0,)
    folder = tmp_path_factory.mktemp("exported")
    return exported("bert", PATTERNS[request.param], blocks, folder), folder


def check_graph(model, folder, family, tolerance=1e-4):
    classifier = OnnxClassifier(folder)
    for batch in batches(family, model.manifest.task.max_length):
        feeds = {name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]}
        assert np.abs(classifier.logits(feeds) - answers(model, batch).numpy()).max() < tolerance


def batches(family, longest):
    for size, length in SHAPES:
        if length <= longest:
            batch = tiny.batch(family, size, max(2, length))
            batch.inputs.update({name: tensor[:, :length] for name, tensor in batch.inputs.items()})
            batch.inputs["attention_mask"][size // 2, length // 3 : length // 2] = 0
            yield batch


def test_the_exported_graph_answers_as_torch_at_any_length(of_pattern):
    check_graph(*of_pattern, "bert")


def test_another_runtime_gives_the_same_answers(of_pattern):
    openvino = pytest.importorskip("openvino")
    model, folder = of_pattern
    compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in batches("bert", 300):
        feeds = {name: batch.inputs[name].numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
        assert np.abs(compiled(feeds)[0] - answers(model, batch).numpy()).max() < 1e-4


@pytest.mark.parametrize("family", [family for family in ABLE if family != "bert"])
def test_every_family_is_exported_with_a_pattern(family, tmp_path):
    check_graph(exported(family, [LOCAL], (0,), tmp_path), tmp_path, family)


def test_an_exported_language_model_has_the_window(tmp_path):
    model = model_with("llama", [FixedRadius(pattern="fixed_radius", radius=3)], task=LANGUAGE)
    export_onnx(model, tmp_path)
    served, ids = OnnxClassifier(tmp_path), tiny.batch("llama", length=12).ids[:1]
    expected = model.network(input_ids=ids).logits[0].detach().numpy()
    state, tokens = None, ids[0].tolist()
    for start, end in ((0, 7), (7, 8), (8, 12)):
        logits, state = served.step(tokens[start:end], state)
        assert np.abs(logits - expected[end - 1]).max() < 1e-4
    with pytest.raises(InputError, match="knows windows of all heads alone"):
        export_onnx(model_with("llama", PATTERNS["longnet"], task=LANGUAGE), tmp_path)


def test_a_network_with_exits_keeps_its_pattern(tmp_path):
    model = model_with("bert", [LOCAL])
    model.edit([AddExits(size=24)])
    export_onnx(model, tmp_path)
    check_graph(model, tmp_path, "bert")


def test_an_exported_window_computes_group_by_group(tmp_path):
    """In a loop whose scores do not grow with the text, and which tells nothing of the machine."""
    exported("bert", [LOCAL], (0,), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    (loop,) = [node for node in graph.node if node.op_type == "Loop"]
    (body,) = bodies(loop)
    assert [node.op_type for node in body.node].count("MatMul") == 2
    assert "Softmax" not in {node.op_type for node in graph.node}
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()
    used = {name for node in body.node for name in reads(node)}
    assert {tensor.name for tensor in body.initializer} <= used
    assert len(loop.input) == 2, "torch's scan has a state, of which the loop has no need"
    own = {value.name for value in body.input} | {name for node in body.node for name in node.output}
    assert all(own.intersection(node.input) for node in body.node), "what is the same in every turn is outside"
    # Keys, values and which of them are real are copied at once; the place of a turn and its queries are looked up.
    kinds = [node.op_type for node in body.node]
    assert kinds.count("Gather") == 2 and kinds.count("Slice") == 4


def test_an_int8_file_keeps_its_pattern(tmp_path):
    model = model_with("bert", PATTERNS["global token"])
    model.edit([KeepBlocks(kept=(0, 3)), FakeQuantize()])
    calibrate(model.network, [tiny.batch("bert", seed=seed) for seed in (1, 2)])
    assert export_onnx(model, tmp_path).kernels() >= 8
    check_graph(model, tmp_path, "bert", tolerance=1e-3)
