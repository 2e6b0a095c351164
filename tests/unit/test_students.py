"""Students of other shapes: parameter counts as published, weights where they belong, answers after a reload."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

import lissom
from lissom.attention.config import FixedRadius
from lissom.distill.offline_config import ShapeParams, TinyBertDistillation
from lissom.distill.tinybert import make_student
from lissom.errors import InputError
from lissom.export.onnx import export_onnx
from lissom.models.anatomy import anatomy
from lissom.models.bilstm import BiLstmConfig
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import ExtendPositions, KeepBlocks, KeepHeads, UseAttention
from lissom.models.families import family_of
from lissom.models.patterned import patterns_of
from lissom.models.signals import SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.models.static_student import static_student
from lissom.models.students import distilbert_student, mobilebert_student, randomized, reshaped, take_blocks
from lissom.serving.classifier import OnnxClassifier
from tests.unit import tiny


def bert(**shape: int) -> CompressedModel:
    """On the meta device: shapes without values."""
    config = BertConfig(num_labels=2, **shape)
    with torch.device("meta"):
        network = AutoModelForSequenceClassification.from_config(config)
    task = tiny.TASK.model_copy(update={"labels": ("no", "yes")})
    manifest = tiny.model("bert").manifest.model_copy(
        update={"task": task, "base_config": json.loads(config.to_json_string(use_diff=False))}
    )
    return CompressedModel(network, tiny.tokenizer(), {}, manifest)


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_published_parameter_counts():
    """Of the students as lissom makes them; the classifier of two labels aside, which papers do not count."""
    with torch.device("meta"):
        assert anatomy(bert().network).total - (2 * 768 + 2) == 109_482_240
        assert size(take_blocks(bert(), range(6)).network.bert) == 66_955_008
        assert size(take_blocks(bert(), (2, 5, 8)).network.bert) == 45_691_392
        # Of a teacher with MobileBERT's own width and depth, and with the pooler's projection, which the paper lacks.
        teacher = bert(hidden_size=512, num_hidden_layers=24, num_attention_heads=4)
        student = mobilebert_student(
            teacher, blocks=None, bottleneck=128, intermediate=512, ffns=4, embedding=128, seed=0
        )
        assert size(student.network.mobilebert) == 24_581_888 + (512 * 512 + 512)
        assert size(distilbert_student(bert(), (0, 2, 4, 7, 9, 11)).network.distilbert) == 66_362_880
        student = make_student(TinyBertDistillation(method="tinybert", shape=ShapeParams()), bert())
    assert size(student.network.bert) == 14_350_248
    config = BiLstmConfig(vocab_size=10, num_labels=2)
    assert size(AutoModelForSequenceClassification.from_config(config)) - 10 * 600 == 963_002


def test_all_blocks_copied_is_the_teacher():
    teacher, batch = tiny.model("bert"), tiny.batch("bert")
    student = take_blocks(teacher, (0, 1, 2, 3))
    with torch.no_grad():
        assert torch.equal(logits_of(student.network, batch), logits_of(teacher.network, batch))


def test_distilbert_has_its_teachers_hidden_states():
    teacher, batch = tiny.model("bert"), tiny.batch("bert")
    student = distilbert_student(teacher, (0, 1, 2, 3))
    spec = SignalSpec(hidden=(0, 1, 4))
    with torch.no_grad():
        expected, actual = signals_of(teacher.network, batch, spec), signals_of(student.network, batch, spec)
    for entry in spec.hidden:
        assert torch.allclose(actual.hidden[entry], expected.hidden[entry], atol=1e-5)
    some = distilbert_student(teacher, (0, 3))
    for own, number in zip(blocks_of(some.network), (0, 3), strict=True):
        origin = blocks_of(teacher.network)[number].attention.self.query.weight
        assert torch.equal(own.attention.q_lin.weight, origin)
    with pytest.raises(InputError, match="roberta"):
        distilbert_student(tiny.model("roberta"), (0,))


def mobile(family: str = "bert") -> CompressedModel:
    return mobilebert_student(
        tiny.model(family), blocks=None, bottleneck=16, intermediate=24, ffns=2, embedding=8, seed=0
    )


def lstm(pair: bool) -> CompressedModel:
    config = BiLstmConfig(vocab_size=tiny.SIZE, embedding_size=12, hidden_size=6, classifier_size=5, pair=pair)
    teacher = tiny.model("bert")
    task = teacher.manifest.task.model_copy(update={"pair": pair})
    teacher.manifest = teacher.manifest.model_copy(update={"task": task})
    return reshaped(teacher, config, seed=0)


def static(pair: bool) -> CompressedModel:
    source = tiny.model("bert", task=tiny.TASK.model_copy(update={"pair": pair}))
    return static_student(source, embedding=12, classifier=5, dropout=0.2, seed=0)


def segmented(length: int = 9):
    """Pairs: about half of every example is the second text."""
    batch = tiny.batch("bert", length=length)
    lengths = batch.mask.sum(1, keepdim=True)
    batch.inputs["token_type_ids"].copy_((torch.arange(length) >= (lengths + 1) // 2) & batch.mask.bool())
    return batch


STUDENTS = {
    "mobilebert": mobile,
    "distilbert": lambda: distilbert_student(tiny.model("bert"), (0, 2)),
    "lstm": lambda: lstm(False),
    "lstm on pairs": lambda: lstm(True),
    "static": lambda: static(False),
    "static on pairs": lambda: static(True),
    "tinybert": lambda: make_student(
        TinyBertDistillation(method="tinybert", shape=ShapeParams(blocks=2, hidden_size=16, intermediate_size=20)),
        tiny.model("bert"),
    ),
    "tinybert of a llama": lambda: make_student(
        TinyBertDistillation(method="tinybert", shape=ShapeParams(blocks=2, hidden_size=16, intermediate_size=20)),
        tiny.model("llama"),
    ),
}
students = pytest.mark.parametrize("name", STUDENTS)


@students
def test_students_reload_export_and_ignore_padding(name, tmp_path):
    student, batch = STUDENTS[name](), segmented()
    lissom.save(student, tmp_path / "model")
    loaded = lissom.load(tmp_path / "model")
    with torch.no_grad():
        expected = logits_of(student.network, batch)
        assert torch.equal(logits_of(loaded.network, batch), expected)
        for row in range(3):
            length = int(batch.mask[row].sum())
            alone = batch.examples(torch.tensor([row]))
            alone = replace(alone, inputs={name: tensor[:, :length] for name, tensor in alone.inputs.items()})
            assert torch.allclose(logits_of(student.network, alone)[0], expected[row], atol=1e-5)
    (tmp_path / "export").mkdir()
    export_onnx(loaded, tmp_path / "export")
    classifier = OnnxClassifier(tmp_path / "export")
    for sample in (batch, segmented(4)):
        inputs = {name: sample.inputs[name].numpy() for name in classifier.serving["inputs"]}
        with torch.no_grad():
            assert np.abs(classifier.logits(inputs) - logits_of(loaded.network, sample).numpy()).max() < 1e-4
    assert anatomy(loaded.network).total == size(loaded.network)


def test_mobilebert_starts_from_its_teacher():
    student, teacher = mobile(), tiny.model("bert")
    assert len(blocks_of(student.network)) == 4 and student.network.config.hidden_size == 32
    table = student.network.mobilebert.embeddings
    middle = table.embedding_transformation.weight[:, 8:16]
    approximation = table.word_embeddings.weight @ middle.T
    original = teacher.network.get_submodule(family_of(teacher.network).word_table).weight
    left = (original - approximation).norm() / original.norm()
    best = torch.linalg.svdvals(original)[8:].square().sum().sqrt() / original.norm()
    assert float(left) == pytest.approx(float(best), rel=1e-4)
    block = blocks_of(student.network)[0]
    assert block.attention.self.value.in_features == 32  # from the wide input, not from the bottleneck
    assert block.attention.self.query.in_features == 16
    norm = block.attention.output.LayerNorm
    x = torch.randn(3, 16)
    assert torch.allclose(norm(2 * x) - norm(x), norm.weight * x, atol=1e-6)
    with pytest.raises(InputError, match="bottleneck_size"):
        mobilebert_student(teacher, blocks=None, bottleneck=10, intermediate=8, ffns=1, embedding=8, seed=0)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_mobilebert_has_the_vectors_of_its_teachers_positions(family):
    """RoBERTa counts the positions of a text from 2, its student from 0."""
    teacher, student, batch = tiny.model(family), mobile(family), tiny.batch(family, length=12)
    looked_up = []
    table = teacher.network.get_submodule(family_of(teacher.network).position_table)
    table.register_forward_hook(lambda _, __, output: looked_up.append(output))
    with torch.no_grad():
        logits_of(teacher.network, batch)
    own = student.network.mobilebert.embeddings.position_embeddings.weight
    assert torch.equal(own[:12], looked_up[0][0])  # the first text of a batch fills it
    assert len(own) == student.network.config.max_position_embeddings == 24
    with torch.no_grad():
        assert torch.isfinite(logits_of(student.network, tiny.batch(family, length=24))).all()


def test_a_vocabulary_smaller_than_the_embedding_leaves_numbers():
    student = mobilebert_student(
        tiny.model("bert"), blocks=None, bottleneck=16, intermediate=24, ffns=2, embedding=32, seed=0
    )
    table = student.network.mobilebert.embeddings
    middle = table.embedding_transformation.weight[:, 32:64]
    original = tiny.model("bert").network.bert.embeddings.word_embeddings.weight
    assert torch.allclose(table.word_embeddings.weight @ middle.T, original, atol=1e-4)


def test_random_students_keep_the_structure():
    student = take_blocks(tiny.model("bert"), (0, 2))
    drawn = randomized(student, seed=1)
    assert len(blocks_of(drawn.network)) == 2 and drawn.network.config.num_labels == 3
    assert not torch.equal(
        blocks_of(drawn.network)[0].output.dense.weight, blocks_of(student.network)[0].output.dense.weight
    )


def test_random_students_keep_attention_and_positions():
    model = tiny.model("bert")
    model.edit(
        [
            ExtendPositions(length=60, how="copy"),
            UseAttention(patterns=(FixedRadius(pattern="fixed_radius", radius=2, blocks=(2,)),)),
            KeepBlocks(kept=(0, 2)),
        ]
    )
    drawn = randomized(model, seed=1)
    assert [bool(patterns_of(block.attention.self)) for block in blocks_of(drawn.network)] == [False, True]
    batch = tiny.batch("bert", length=60)
    with torch.no_grad():
        assert logits_of(drawn.network, batch).isfinite().all()
    model.edit([KeepHeads(kept=((0,), (0,)))])
    with pytest.raises(InputError, match="this one has other changes: keep_heads"):
        randomized(model, seed=1)
    with pytest.raises(InputError, match="hidden_size: 30"):
        make_student(TinyBertDistillation(method="tinybert", shape=ShapeParams(hidden_size=30)), tiny.model("bert"))
