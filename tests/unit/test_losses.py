import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lissom.models.compressed import logits_of
from lissom.tasks.labels import soft_target_loss
from lissom.training.config import LogitsLossParams
from lissom.training.losses import against_teacher, distillation_loss
from lissom.training.teacher import CachedLogits, LiveTeacher
from tests.unit import tiny

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(5, 4), torch.randn(5, 4)
temperatures = pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])


@temperatures
def test_zero_only_for_equal_distributions(temperature):
    shifted = TEACHER + torch.randn(5, 1)  # a constant per row changes no distribution
    assert float(soft_target_loss(shifted, TEACHER, temperature)) == pytest.approx(0, abs=1e-5)
    assert float(soft_target_loss(STUDENT, TEACHER, temperature)) > 1e-3


@temperatures
def test_gradient_is_t_times_the_difference_of_the_distributions(temperature):
    student = STUDENT.clone().requires_grad_()
    soft_target_loss(student, TEACHER, temperature).backward()
    expected = (
        temperature * (F.softmax(STUDENT / temperature, -1) - F.softmax(TEACHER / temperature, -1)) / len(STUDENT)
    )
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_labels_of_no_probability_change_nothing():
    impossible = torch.full((5, 4), -1e4)
    doubled = soft_target_loss(torch.cat([STUDENT, impossible], 1), torch.cat([TEACHER, impossible], 1), 2.0)
    assert float(doubled) == pytest.approx(float(soft_target_loss(STUDENT, TEACHER, 2.0)), rel=1e-5)


def test_finite_for_huge_half_precision_logits():
    huge = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.float16)
    assert math.isfinite(float(soft_target_loss(huge, -huge, 1.0)))


def test_no_gradient_into_the_teacher():
    teacher = TEACHER.clone().requires_grad_()
    soft_target_loss(STUDENT.clone().requires_grad_(), teacher, 2.0).backward()
    assert teacher.grad is None


def test_mixing():
    labels = torch.tensor([0, 1, 2, 3, 0])
    hard, soft = F.cross_entropy(STUDENT, labels), soft_target_loss(STUDENT, TEACHER, 2.0)
    total = distillation_loss(tiny.TASK, STUDENT, TEACHER, labels, LogitsLossParams(temperature=2, alpha=0.25))
    convex = distillation_loss(
        tiny.TASK, STUDENT, TEACHER, labels, LogitsLossParams(temperature=2, alpha=0.25, mixing="convex")
    )
    assert float(total) == pytest.approx(float(hard + 0.25 * soft), rel=1e-6)
    assert float(convex) == pytest.approx(float(0.75 * hard + 0.25 * soft), rel=1e-6)


def test_unlabelled_examples_count_but_pull_nowhere():
    student = STUDENT.clone().requires_grad_()
    labels = torch.tensor([0, -1, 2, -1, -1])
    loss = tiny.TASK.loss(student, labels)
    loss.backward()
    per_example = F.cross_entropy(STUDENT, labels.clamp_min(0), reduction="none")
    assert float(loss) == pytest.approx(float((per_example[0] + per_example[2]) / 5), rel=1e-6)
    assert student.grad[[1, 3, 4]].abs().sum() == 0
    assert float(tiny.TASK.loss(STUDENT, torch.full((5,), -1))) == 0


def test_cached_and_live_teachers_agree_and_the_teacher_stays_as_it_was():
    teacher, student, batch = tiny.model("bert", seed=1), tiny.model("bert"), tiny.batch("bert")
    teacher.network.train()  # a live teacher must not drop out, whatever mode it was left in
    weights = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    params = LogitsLossParams()
    live = against_teacher(LiveTeacher(teacher.network), params, tiny.TASK)(student.network, batch)
    with torch.no_grad():
        cache = CachedLogits(logits_of(teacher.network, batch))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = batch.examples(order)
    cached = against_teacher(cache, params, tiny.TASK)(student.network, shuffled)
    assert float(live) == pytest.approx(float(cached), rel=1e-6)
    live.backward()
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.network.state_dict().items())


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_padding_never_enters_the_loss(family):
    model, batch = tiny.model(family), tiny.batch(family)
    pad = torch.full((len(batch), 4), model.pad_id)
    zeros = torch.zeros_like(pad)
    more = {"input_ids": pad, "attention_mask": zeros, "token_type_ids": zeros}
    wider = replace(batch, inputs={name: torch.cat([batch.inputs[name], more[name]], 1) for name in more})
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, batch), logits_of(model.network, wider), atol=1e-5)
        assert float(tiny.LOSS(model.network, batch)) == pytest.approx(float(tiny.LOSS(model.network, wider)), rel=1e-5)
