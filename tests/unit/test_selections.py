import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from lissom.export.onnx import export_onnx
from lissom.export.onnx_file import OnnxFile
from lissom.export.selections import select_early
from lissom.models.edits import FakeQuantize
from lissom.quantize.int8 import calibrate
from tests.unit import tiny

FIRST_TOKEN = ("bert", "distilbert", "roberta", "electra", "deberta-v2")
"""Families whose head reads the first token."""


@pytest.mark.parametrize("family", FIRST_TOKEN)
@pytest.mark.parametrize("quantize", [False, True], ids=["float", "int8"])
def test_what_follows_the_last_attention_is_computed_for_one_token(family, quantize, tmp_path, monkeypatch):
    model = tiny.model(family)
    if quantize:
        model.edit([FakeQuantize()])
        calibrate(model.network, [tiny.batch(family, seed=seed) for seed in (1, 2)])
    folders = [tmp_path / name for name in ("early", "late")]
    for folder in folders:
        folder.mkdir()
        export_onnx(model, folder)
        monkeypatch.setattr("lissom.export.graph.select_early", lambda graph: None)
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch(family, size, length)
        answers = [OnnxFile(folder).logits(batch) for folder in folders]
        assert np.array_equal(*answers) if quantize else np.allclose(*answers, atol=1e-5)
    shapes = _normalised(folders[0] / "model.onnx", tiny.batch(family, 3, 11))
    assert (3, 11) in {shape[:2] for shape in shapes[:-2]}
    assert all(shape[0] == 3 and len(shape) == 2 for shape in shapes[-2:])  # both norms of the last block
    late = _normalised(folders[1] / "model.onnx", tiny.batch(family, 3, 11))
    assert all(len(shape) == 3 for shape in late[-2:])


def _normalised(path, batch):
    """Return the shapes that layer normalisations give, in the graph's order."""
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {value.name: batch.inputs[value.name].numpy() for value in session.get_inputs()}
    return [value.shape for value in session.run(names, feeds)]


GRAPHS = {
    "a chain": ("a = Relu(x) b = Erf(a) y = Gather<axis=1>(b, zero)", "Gather Relu Erf"),
    "a residual sum": ("a = Relu(x) b = MatMul(a, w) c = Add(b, a) y = Gather<axis=1>(c, zero)", "Gather Relu MatMul Add"),
    "a constant vector": ("a = Add(x, v) y = Gather<axis=1>(a, zero)", "Gather Add"),
    "two inputs": ("a = Softmax(x) b = Mul(a, x) y = Gather<axis=1>(b, zero)", "Softmax Gather Gather Mul"),
    "a vector for all tokens": (
        "a = Erf(x) m = ReduceMean(a, one) b = Add(a, m) y = Gather<axis=1>(b, zero)", "Erf ReduceMean Gather Gather Add"
    ),
    "a table of positions": ("a = Add(x, p) b = Relu(a) y = Gather<axis=1>(b, zero)", "Add Gather Relu"),
    "another reader": ("a = Erf(x) m = ReduceMean(a) c = Gather<axis=1>(a, zero) y = Add(c, m)", "Erf ReduceMean Gather Add"),
    "a norm of all tokens": ("a = LayerNormalization<axis=1>(x, p) y = Gather<axis=1>(a, zero)", "LayerNormalization Gather"),
    "a selection of features": ("a = Relu(x) y = Gather<axis=2>(a, zero)", "Relu Gather"),
    "a slice": ("a = Relu(x) y = Gather<axis=1>(a, one)", "Relu Gather"),
    "another token": ("a = Relu(x) y = Gather<axis=1>(a, last)", "Relu Gather"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_what_treats_tokens_alone_moves_behind_a_selection(name):
    nodes, expected = GRAPHS[name]
    before = onnx.shape_inference.infer_shapes(
        onnx.parser.parse_model(f"""
            <ir_version: 9, opset_import: ["" : 20]> g (float[batch, 5, 4] x) => (float[batch, d] y)
            <int64 zero = {{0}}, int64 last = {{4}}, int64[1] one = {{1}}, float[4] v = {{1, 2, 3, 4}},
             float[5, 4] p = {{{", ".join(map(str, range(20)))}}}, float[4, 4] w = {{{", ".join(map(str, range(16)))}}}>
            {{ {nodes} }}
        """)
    )
    after = onnx.ModelProto()
    after.CopyFrom(before)
    select_early(after.graph)
    assert " ".join(node.op_type for node in after.graph.node) == expected
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": values}
        )
        for model in (before, after)
    ]
    assert np.allclose(*answers, atol=1e-6)
