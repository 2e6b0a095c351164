"""Every method learns, leaves its teacher alone, resumes, and ends as a model."""

import json

import pytest
import torch

import lissom
from lissom.data.tables import Row, write_table
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.errors import InputError
from lissom.export.onnx import export_onnx
from lissom.models.compressed import logits_of
from lissom.models.patterned import has_patterns
from lissom.serving.classifier import OnnxClassifier
from lissom.training.checkpoint import Checkpoints
from lissom.training.hooks import Hook
from tests.unit import tiny
from tests.unit.distill.recipes import METHODS, SHORT, params_of

methods = pytest.mark.parametrize("method", METHODS)


@methods
def test_every_method_learns_and_ends_as_a_model(method, material, tmp_path):
    before = {name: tensor.clone() for name, tensor in material.teacher.network.state_dict().items()}
    result = distill(params_of(method), material)
    student, dev = result.model, material.encode(result.model, "dev")
    assert tiny.scorer(student, dev)() > 0.9
    assert all(torch.equal(tensor, before[name]) for name, tensor in material.teacher.network.state_dict().items())
    assert (
        material.teacher.network.config._attn_implementation == tiny.model("bert").network.config._attn_implementation
    )
    assert all(parameter.grad is None for parameter in material.teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in student.network.parameters())
    lissom.save(student, tmp_path / "model")
    loaded, batch = lissom.load(tmp_path / "model"), tiny.batch("bert")
    batch.ids.clamp_(max=student.network.config.vocab_size - 1)
    with torch.no_grad():
        assert torch.equal(logits_of(loaded.network, batch), logits_of(student.network, batch))
    steps = [record["step"] for record in result.history if "loss" in record]
    assert steps == sorted(set(steps)) and steps[-1] == sum(fitted.steps for fitted in result.trainings.values())
    json.dumps(result.metrics)


@pytest.mark.parametrize("start", ["teacher", "random"])
def test_a_student_with_a_pattern_learns_from_a_dense_teacher(start, material, tmp_path):
    attention = {"pattern": "fixed_radius", "radius": 2, "global_tokens": 1}
    student = distill(params_of("logits", attention=attention, start=start), material).model
    assert tiny.scorer(student, material.encode(student, "dev"))() > 0.9
    assert has_patterns(student.network) and not has_patterns(material.teacher.network)
    assert "fixed radius (radius 2, global tokens 1)" in [edit.describe() for edit in student.manifest.edits][-1]
    lissom.save(student, tmp_path / "model")
    export_onnx(student, tmp_path)
    batch = tiny.batch("bert")
    classifier = OnnxClassifier(tmp_path)
    answers = classifier.logits({name: batch.inputs[name].numpy() for name in classifier.serving["inputs"]})
    with torch.no_grad():
        expected = logits_of(lissom.load(tmp_path / "model").network, batch)
    torch.testing.assert_close(torch.from_numpy(answers), expected, atol=1e-4, rtol=1e-4)


class Killed(Exception):
    pass


class KillAt(Hook):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, step: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("method", ["tinybert", "mobilebert", "mutual", "fastbert", "born_again", "ema"])
def test_a_killed_method_resumes_to_the_same_weights(method, material, tmp_path):
    """In a second training of several, or where more than one network is trained."""
    short = {name: value | {"epochs": 2} for name, value in METHODS[method].items() if name.endswith("training")}
    params = params_of(method, **short, **({"generations": 2} if method == "born_again" else {}))
    expected = distill(params, material).model.network.state_dict()
    killer = KillAt(44 if method in ("tinybert", "mobilebert", "fastbert", "born_again") else 20)
    interrupted = Material(
        **(vars(material) | {"checkpoints": Checkpoints(tmp_path / "c", 0), "hooks": lambda _: [killer]})
    )
    with pytest.raises(Killed):
        distill(params, interrupted)
    resumed = Material(**(vars(material) | {"checkpoints": Checkpoints(tmp_path / "c", 0)}))
    again = distill(params, resumed).model.network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_pairs_work_where_tokens_differ(material, teacher, tmp_path):
    pairs = Material(
        teacher=tiny.model("bert"),
        tables={
            name: write_table(tmp_path / f"pair-{name}.arrow", [Row(row.text, "the good film", row.label) for row in table.rows()])
            for name, table in material.tables.items()
        },
        scratch=tmp_path,
    )  # fmt: skip
    task = tiny.TASK.model_copy(update={"pair": True})
    pairs.teacher.manifest = pairs.teacher.manifest.model_copy(update={"task": task})
    result = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), pairs)
    assert result.model.network.config.pair and result.metrics["augmented_texts"] > 0


def test_a_cache_that_is_too_large_or_a_teacher_without_blocks_is_refused(material):
    with pytest.raises(InputError, match=r"would take .* GB.*source: live"):
        distill(params_of("patient", signals={"source": "cached", "cache_gigabytes": 1e-9}), material)
    lstm = distill(params_of("lstm", training=SHORT | {"weight_decay": 0}), material).model
    other = Material(**(vars(material) | {"teacher": lstm}))
    for method in ("patient", "tinybert", "distilbert"):
        with pytest.raises(InputError, match="no Transformer blocks"):
            distill(params_of(method), other)
