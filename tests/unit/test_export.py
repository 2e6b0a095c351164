import numpy as np
import onnx
import pytest
import torch

from lissom.data.encoding import encode
from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.export import graph_file
from lissom.export.baselines import open_baselines, write_baselines
from lissom.export.config import ExportParams
from lissom.export.kernels import count_kernels
from lissom.export.onnx import export_onnx
from lissom.export.onnx_file import OnnxFile
from lissom.export.parity import check_parity
from lissom.models.compressed import logits_of
from lissom.models.edits import (
    AddExits,
    FactorizeWordTable,
    FakeQuantize,
    KeepBlocks,
    KeepHeads,
    KeepNeurons,
    StoreIntegers,
)
from lissom.models.families import FAMILIES
from lissom.quantize.int8 import calibrate
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.folder import DamagedFolderError
from tests.unit import tiny

SHRINK = [
    KeepBlocks(kept=(0, 3)),
    KeepHeads(kept=((0,), (0, 1))),
    KeepNeurons(kept=(tuple(range(16)), tuple(range(32)))),
]


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
@pytest.mark.parametrize("quantize", [False, True], ids=["float", "int8"])
def test_the_file_answers_as_torch_at_any_shape(family, quantize, tmp_path):
    model = tiny.model(family)
    model.edit(SHRINK)
    if quantize:
        model.edit(tiny.suited(family, [FactorizeWordTable(rank=8), FakeQuantize()]))
        calibrate(model.network, [tiny.batch(family, seed=seed) for seed in (1, 2)])
    kernels = export_onnx(model, tmp_path).kernels()
    # Per block query, key and value in one, attention's output, two of the FFN; then the table's and the head's.
    expected = 9 if family in tiny.able("word_table") else 8
    assert (kernels >= expected) == quantize and (kernels == 0) == (not quantize)
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 2), (1, 16), (5, 9)):
        batch = tiny.batch(family, size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            expected = logits_of(model.network, batch)
        assert np.abs(actual - expected.numpy()).max() < 1e-3
    actual = count_kernels(tmp_path / "model.onnx")
    has_kernel = FAMILIES[family].attention_function and family != "gemma2"  # it has no soft cap
    assert actual["MultiHeadAttention"] + actual["QAttention"] == (2 if has_kernel else 0)
    if FAMILIES[family].position_table:  # rotary positions really need the heads apart
        assert actual["Reshape"] == actual["Transpose"] == 0
        # MobileBERT's values are projected from another input than its queries and keys.
        assert actual["QAttention"] == (2 if quantize and family != "mobilebert" else 0)
    # Its kernel is slower than the two it replaces (docs/decisions.md).
    assert actual["SkipLayerNormalization"] == actual["SkipSimplifiedLayerNormalization"] == 0


@pytest.mark.parametrize(
    ("family", "window", "biases"),
    [("mistral", 4, 4), ("qwen2", 4, 2), ("mistral", 24, 0), ("llama", None, 0), ("modernbert", 4, 2)],
)
def test_sliding_windows_are_in_the_graph(family, window, biases, tmp_path):
    """The kernel knows none; in the graph it is a bias, and is left out where no input is longer than the window."""
    model = tiny.model(family, task=tiny.TASK.model_copy(update={"max_length": 24}))
    if window == 24:
        model.network.config.sliding_window = window
    export_onnx(model, tmp_path)
    classifier = OnnxClassifier(tmp_path)
    for size, length in ((1, 3), (3, 4), (4, 20)):
        batch = tiny.batch(family, size, length)
        actual = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
        with torch.no_grad():
            expected = logits_of(model.network, batch)
        assert np.abs(actual - expected.numpy()).max() < 1e-4
    nodes = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "MultiHeadAttention"]
    assert len(nodes) == 4 and sum(len(node.input) > 5 and bool(node.input[5]) for node in nodes) == biases


def test_the_graph_tells_nothing_of_the_machine(plain_export):
    assert b".py" not in (plain_export / "model.onnx").read_bytes()
    graph = onnx.load(plain_export / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert graph.input[0].type.tensor_type.shape.dim[1].dim_param == "tokens"


@pytest.fixture
def exported(plain_export, tmp_path):
    model = tiny.model("bert")
    table = write_table(tmp_path / "dev.arrow", [Row(f"the {word} film", None, "good") for word in tiny.WORDS])
    return model, OnnxFile(plain_export), encode([table], model.tokenizer, 16, tiny.TASK.targets, tmp_path / "tokens")


def test_parity_is_measured_over_the_dev_set(exported):
    parity = check_parity(*exported, ExportParams())
    assert parity.tolerance_name == "float_tolerance"
    assert parity.examples == len(tiny.WORDS)
    assert parity.max_logit_difference < 1e-4 and parity.agreement == 1


def test_a_file_that_answers_otherwise_is_an_error(exported):
    model, file, dev = exported
    model.network.classifier.bias.data += 1
    with pytest.raises(InputError, match=r"export\.float_tolerance"):
        check_parity(model, file, dev, ExportParams())


def test_raw_text_in_probabilities_out(exported):
    classifier = OnnxClassifier(exported[1].folder)
    answer = classifier.predict(["the good film"])[0]
    single = answer["probabilities"]
    assert sum(single.values()) == pytest.approx(1, abs=1e-6) and set(single) == set(tiny.TASK.labels)
    assert single[answer["label"]] == max(single.values())
    longer = ["the good film", "the very dull plot was not a great movie"]
    beside_longer = classifier.predict(longer)[0]["probabilities"]
    assert beside_longer == pytest.approx(single, abs=1e-5)
    assert classifier.predict([]) == []
    with pytest.raises(ValueError, match="classifies single texts"):
        classifier.predict(["the"], ["film"])


def test_long_texts_are_cut(exported):
    classifier = OnnxClassifier(exported[1].folder)
    assert classifier.encode(["film " * 100])["input_ids"].shape == (1, 16)


def test_a_near_tie_is_no_disagreement():
    """One of 300 rows is 0.33 %, of which export.label_agreement allows a sixth more."""
    reference = np.tile(np.float32([1.0, 0.0, -1.0]), (300, 1))
    logits = reference.copy()
    reference[7], logits[7] = (0.5, 0.5 - 5e-4, 0), (0.5 - 5e-4, 0.5, 0)
    assert tiny.TASK.agreement(reference, logits, 1e-3) == 1
    assert tiny.TASK.agreement(reference, logits, 1e-4) == pytest.approx(299 / 300)
    logits[8] = (0, 1, 0)
    assert tiny.TASK.agreement(reference, logits, 1e-3) == pytest.approx(299 / 300)


def test_a_large_graph_has_its_tensors_in_a_file_beside(tmp_path, monkeypatch):
    """As beyond 2 GB, with a lower bound: exported, quantised, counted, served, and damaged."""
    monkeypatch.setattr(graph_file, "LARGEST", 10_000)
    model = tiny.model("bert")
    exported = export_onnx(model, tmp_path)
    data = tmp_path / "model.onnx.data"
    assert data.stat().st_size > 10_000 > (tmp_path / "model.onnx").stat().st_size - 200_000
    assert exported.files["model.onnx"] == data.stat().st_size + (tmp_path / "model.onnx").stat().st_size
    batch = tiny.batch("bert")
    with torch.no_grad():
        assert np.abs(exported.logits(batch) - logits_of(model.network, batch).numpy()).max() < 1e-4
    write_baselines(model, tmp_path)
    for baseline in open_baselines(tmp_path).values():
        assert baseline.kernels() > 0 and baseline.logits(batch).shape == (6, 3)
    assert [path.name for path in (tmp_path / "baselines/plain_int8").glob("plain_float*")] == []
    data.write_bytes(data.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DamagedFolderError, match=r"model.onnx.data: sha256"):
        OnnxClassifier(tmp_path)


def test_a_large_graph_with_exits_has_their_tensors_beside_it_too(tmp_path, monkeypatch):
    """The blocks behind an exit are in the branches of a condition."""
    model = tiny.model("bert")
    model.edit([AddExits(size=8)])
    whole = export_onnx(model, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    own = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert graph_file.size_of(onnx.load(tmp_path / "model.onnx")) > 1.5 * own
    batch = tiny.batch("bert", 1)
    expected = whole.logits(batch)
    monkeypatch.setattr(graph_file, "LARGEST", int(1.2 * own))
    again = export_onnx(model, tmp_path)
    assert (tmp_path / "model.onnx.data").is_file() and np.abs(again.logits(batch) - expected).max() < 1e-6


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2"])
@pytest.mark.parametrize("factorized", [True, False], ids=["factorised", "whole"])
@pytest.mark.parametrize("bits", [8, 4])
def test_simpler_lookups_answer_the_same_to_the_bit(bits, factorized, family, tmp_path, monkeypatch):
    """Rows that are quantised already or once a session starts, positions cut off their table, three added at once."""
    model = tiny.model(family)
    model.edit([*([FactorizeWordTable(rank=8)] if factorized else []), FakeQuantize(table_bits=bits)])
    calibrate(model.network, [tiny.batch(family, seed=seed) for seed in (1, 2)])
    model.edit([StoreIntegers()])
    folders = [tmp_path / name for name in ("simple", "plain")]
    for folder in folders:
        folder.mkdir()
        export_onnx(model, folder)
        monkeypatch.setattr("lissom.export.graph.simplify_lookups", lambda graph: None)
    simple, plain = (count_kernels(folder / "model.onnx") for folder in folders)
    if factorized:
        assert simple["QuantizeLinear"] == plain["QuantizeLinear"] - 1 and simple["Mul"] == plain["Mul"] - 1
    fewer = factorized or family != "gpt2"  # which computes the numbers of positions
    assert sum(simple.values()) <= sum(plain.values()) - fewer
    for size, length in ((1, 2), (3, 11)):
        batch = tiny.batch(family, size, length)
        answers = [
            classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
            for classifier in map(OnnxClassifier, folders)
        ]
        assert np.array_equal(*answers)
