"""A teacher that is asked live while its weights lie in pieces on all processes (`shard`)."""

import pytest
import torch

from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.models.signals import SignalSpec, expose_scores
from lissom.parallel.gradients import local_tensor
from lissom.parallel.sharding import sharded
from lissom.training.teacher import LiveTeacher
from tests.distributed.processes import spread
from tests.distributed.training import weights
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, params_of, tables_in
from tests.unit.distill.test_texts import masked_language_model, with_mask_token


def classifier():
    return tiny.model("bert").network


def ask_in_pieces(world, make):
    teacher, batch = make(), tiny.batch("bert")
    spec = SignalSpec(hidden=(0, 2), scores=(1,))
    with expose_scores(teacher):
        expected, before = LiveTeacher(teacher, spec).signals(batch), weights(teacher)
    with sharded(teacher, world) as asked, expose_scores(asked):
        actual = LiveTeacher(asked, spec).signals(batch)
        left = sum(parameter.untyped_storage().nbytes() for parameter in teacher.parameters())
        held = sum(local_tensor(parameter).nbytes for parameter in asked.parameters())
    torch.testing.assert_close(vars(actual), vars(expected))
    after = weights(teacher)
    assert all((after[name] == before[name]).all() for name in before) and len(after) == len(before)
    return left, held / sum(parameter.nbytes for parameter in teacher.parameters())


@pytest.mark.parametrize("make", [classifier, masked_language_model])
def test_a_sharded_teacher_answers_as_before_and_is_whole_nowhere(make):
    for left, share in spread(ask_in_pieces, make, data=2, shard=True):
        assert left == 0 and share == pytest.approx(0.5, abs=0.02)


METHODS = {
    "tinybert": {"layers_training": SHORT, "training": SHORT},
    "distilbert": {"pretraining": {"training": SHORT}, "training": SHORT},
    "lstm": {"augmentation": None, "training": SHORT},
}


def learn(world, method, folder):
    teacher = tiny.model("bert")
    material = Material(
        teacher=with_mask_token(teacher) if method == "distilbert" else teacher, tables=tables_in(folder / str(world.rank)), scratch=folder,
        language_model=masked_language_model, world=world,
    )  # fmt: skip
    before = weights(material.teacher.network)
    student = distill(params_of(method, **METHODS[method]), material).model
    after = weights(material.teacher.network)
    assert after.keys() == before.keys() and all((after[name] == before[name]).all() for name in before)
    return weights(student.network)


@pytest.mark.parametrize("method", METHODS)
def test_students_of_a_sharded_teacher_are_the_same_everywhere(method, tmp_path):
    first, second = spread(learn, method, tmp_path, data=2, shard=True)
    assert all((first[name] == second[name]).all() for name in first)
