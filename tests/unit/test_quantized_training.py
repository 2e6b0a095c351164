"""Trainings with quantised products: what was trained is what is stored, and less is lost than by rounding alone."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import StoreIntegers
from lissom.quantize.config import Int8Training
from lissom.quantize.int8 import ClipWeights, fake_quantised, plan
from lissom.training.compress import compress
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, SHORT, tables_in

KINDS = {
    "learned": {"weight_bits": 4, "weight_scale": "learned", "input_bits": 4},
    "least error": {"weight_bits": 3, "weight_scale": "mse", "observer": "mse"},
    "ternary": {"weight_bits": 2, "weight_scale": "mean"},
    "drawn signs": {"weight_bits": 1, "weight_scale": "mean", "stochastic": True},
    "noise": {"weight_bits": 4, "noise": 0.5, "table_bits": 4},
    "smoothed": {"smooth": 0.5, "observer": "percentile"},
    "dynamic": {"inputs": "dynamic"},
}


def params_of(training=SHORT, **changes):
    training = None if training is None else {key: value for key, value in training.items() if key != "precision"}
    return Int8Training.model_validate({"method": "int8", "training": training, **changes})


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_stored(kind, lesson, tmp_path):
    model, params = tiny.model("bert"), params_of(**KINDS[kind])
    recipe, batch, trained = plan(model, lesson, params), tiny.batch("bert"), []
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}

    def finish(finished):
        layers = fake_quantised(finished.network)
        assert all(bool((layer.weight != 0).any()) for layer in layers)
        with torch.no_grad():
            trained.append(logits_of(finished.network.eval(), batch))
        return [StoreIntegers()]

    result = compress(
        model, replace(recipe, finish=finish), lesson, LiveTeacher(tiny.model("bert").network), params.training
    )
    assert result.training is not None and result.training.steps > 0
    with torch.no_grad():
        stored = logits_of(model.network, batch)
    assert (stored - trained[0]).abs().median() < 1e-4
    save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(load(tmp_path / "model").network, batch), stored)
    norm = "bert.encoder.layer.0.output.LayerNorm.weight"
    assert norm in before and model.network.get_submodule(norm.rpartition(".")[0]).weight.dtype == torch.float32


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learnt")
    lesson = Lesson(tables=tables_in(folder / "tables"), scratch=folder)
    model = tiny.model("bert")
    params = TrainingParams.model_validate(FAST)
    scorer = lesson.scorer(model, params)
    lesson.train(
        "teacher",
        model.network,
        lesson.texts(model),
        model.pad_id,
        against_targets(tiny.TASK),
        params,
        score=scorer,
        identity="",
    )
    assert scorer() > 0.95
    return lesson, model


@pytest.mark.parametrize("kind", ["learned", "ternary"])
def test_training_repairs_what_rounding_breaks(learnt, kind, tmp_path):
    lesson, teacher = learnt
    scores = []
    for training in (None, FAST):
        save(teacher, tmp_path / str(training is None))
        model = load(tmp_path / str(training is None))
        changes = dict(KINDS[kind])
        if training is None and changes["weight_scale"] == "learned":
            changes["weight_scale"] = "max"
        params = params_of(training, **changes)
        recipe = plan(model, lesson, params)
        result = compress(
            model, recipe, lesson, LiveTeacher(teacher.network), params.training, phase=f"{kind}-{training is None}"
        )
        scores.append(result.metrics["dev_score"])
    assert scores[1] > 0.9 and scores[1] >= scores[0]


def test_latent_weights_stay_within_one():
    model = tiny.model("bert")
    model.edit(plan(model, None, params_of(weight_bits=1, weight_scale="mean")).edits)
    layer, hook = fake_quantised(model.network)[0], ClipWeights()
    layer.weight.data[0] = 3
    hook.begin(model.network)
    hook.after_step(0, 1)
    assert (layer.weight[0] == 1).all() and layer.weight.abs().max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 1}, "1 bit needs mean"),
        ({"weight_bits": 4, "weight_scale": "mean"}, "for 1 and 2 bits"),
        ({"stochastic": True}, "set weight_bits: 1"),
        ({"inputs": "dynamic", "smooth": 0.5}, "set inputs: static"),
        ({"inputs": "dynamic", "input_bits": 4}, "the kernel has 8 bits"),
        ({"training": None, "noise": 0.5}, "need a training"),
    ],
)
def test_params_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        params_of(**{"training": SHORT} | changes)
