"""Recipes: what a technique may ask of a training, and that it gets it."""

import numpy as np
import pytest
import torch

from lissom.models.edits import KeepHeads
from lissom.models.layers import observers_of
from lissom.parallel.parts import split_batch
from lissom.quantize.config import Int8Training
from lissom.quantize.plan import plan as plan_quantization
from lissom.storage import remove_folder
from lissom.training.checkpoint import Checkpoints
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.objective import Objective, Term, tokens
from lissom.training.optimizer import make_optimizer, set_learning_rate
from lissom.training.recipe import Recipe
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_loop import KillAt, Killed, examples

DATA = examples(27)
TRAINING = RecoveryParams(**SHORT)
HEADS = KeepHeads(kept=((0,), (0, 1), (1, 2, 3), (0, 1, 2, 3)))


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@pytest.fixture
def teacher():
    return LiveTeacher(tiny.model("bert", 5).network)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def test_the_order_is_edits_calibration_training_final_edits(lesson, teacher):
    model, records = tiny.model("bert"), []

    class Watch(Hook):
        def begin(self, network):
            records.append(("begin", network is model.network))

        def end(self):
            records.append(("end", True))

    def finish(argument):
        records.append(("finish", argument is model))
        return [KeepHeads(kept=((0,),) * 4)]

    recipe = Recipe(
        edits=[HEADS], calibrate=lambda argument: records.append(("calibrate", len(argument.manifest.edits))), hooks=[Watch()],
        finish=finish, facts={"answer": 3},
    )  # fmt: skip
    done = compress(model, recipe, lesson, teacher, TRAINING)
    assert records == [("calibrate", 1), ("begin", True), ("end", True), ("finish", True)]
    assert [edit.kind for edit in model.manifest.edits] == ["keep_heads", "keep_heads"]
    assert done.metrics["answer"] == 3 and {"dev_score", "dev_score_before_training", "steps"} <= done.metrics.keys()


def test_without_a_training_the_model_is_as_the_edits_made_it(lesson, teacher):
    model, expected = tiny.model("bert"), tiny.model("bert")
    done = compress(model, Recipe(edits=[HEADS]), lesson, teacher, None)
    expected.edit([HEADS])
    assert all(torch.equal(tensor, weights(model)[name]) for name, tensor in weights(expected).items())
    assert done.training is None and "steps" not in done.metrics
    assert done.metrics["dev_score"] == done.metrics["dev_score_before_training"]


def test_quantisation_after_training_calibrates_alone(lesson, teacher):
    model = tiny.model("bert")
    params = Int8Training(method="int8", training=None)
    before = weights(model)
    compress(model, plan_quantization(model, lesson, params), lesson, teacher, params.training)
    assert all(bool(layer.observed) for layer in observers_of(model.network))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items() if name in before)


def test_learning_rates_by_pattern():
    network = tiny.model("bert").network
    optimizer = make_optimizer(dict(network.named_parameters()), TRAINING, {r"attention": 0.0, r"layer\.0": 10.0})
    set_learning_rate(optimizer, 0.5)
    rates = {id(item): group["lr"] for group in optimizer.param_groups for item in group["params"]}
    for name, parameter in network.named_parameters():
        expected = 0.0 if "attention" in name else 5.0 if "layer.0" in name else 0.5
        assert rates[id(parameter)] == expected, name
    assert len(rates) == len(list(network.parameters()))


def test_what_has_no_rate_stays_as_it_is(lesson, teacher):
    model = tiny.model("bert")
    before = weights(model)
    compress(
        model,
        Recipe(rates={r"^classifier": 1.0, "": 0.0}),
        lesson,
        teacher,
        TRAINING.model_copy(update={"weight_decay": 0.0}),
    )
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_penalty_is_added_once_for_a_batch_however_it_is_cut():
    network = tiny.model("bert").network
    objective = tiny.LOSS.with_penalty(lambda item: item.classifier.weight.square().sum())
    members = np.arange(7)
    (whole,) = split_batch(DATA, members, 0, 1, [0])
    expected = float(tiny.LOSS(network, whole.batch)) + float(network.classifier.weight.square().sum())
    for count in (1, 2, 3):
        parts = split_batch(DATA, members, 0, count, range(count))
        total = sum(float(objective(network, part.batch)) * part.weight for part in parts)
        assert total == pytest.approx(expected, rel=1e-5)
    assert objective.needs_internals  # a stage of a pipeline does not have all weights


def test_terms_of_parts_add_up_to_those_of_the_whole_batch():
    """Means over examples, tokens and pairs of ragged parts, each by its own share."""

    def pairs(members):
        return float((members.lengths**2).sum())

    objective = Objective(
        forward=lambda _, batch: batch.mask.float(),
        terms=(
            Term(lambda records, _: records.sum(1).square().mean(), weight=2.0),
            Term(lambda records, _: (records * torch.arange(records.shape[1])).sum() / records.sum(), over=tokens),
            Term(lambda records, _: records.sum(1).pow(3).sum() / records.sum(1).square().sum(), over=pairs, weight=0.5),
        ),
    )  # fmt: skip
    network, members = torch.nn.Identity(), np.arange(11)
    (whole,) = split_batch(DATA, members, 0, 1, [0])
    for count in (2, 5):
        parts = split_batch(DATA, members, 0, count, range(count))
        total = sum(float(objective(network, part.batch)) * part.weight for part in parts)
        assert total == pytest.approx(float(objective(network, whole.batch)), rel=1e-5)


def test_a_killed_training_does_not_go_on_under_other_params(lesson, teacher, tmp_path):
    def run(observe: float, *hooks):
        model, params = tiny.model("bert"), Int8Training(method="int8", observe=observe, training=SHORT)
        own = Lesson(**(vars(lesson) | {"checkpoints": Checkpoints(tmp_path / "kept", every_seconds=0)}))
        recipe = plan_quantization(model, own, params)
        recipe = Recipe(edits=recipe.edits, calibrate=recipe.calibrate, hooks=[*recipe.hooks, *hooks])
        compress(model, recipe, own, teacher, params.training, identity=params.model_dump_json())
        return weights(model)

    with pytest.raises(Killed):
        run(0.9, KillAt(8))
    actual = run(0.2)
    remove_folder(tmp_path / "kept")
    expected = run(0.2)
    assert all(torch.equal(tensor, actual[name]) for name, tensor in expected.items())
