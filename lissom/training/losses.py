"""Objectives that every stage needs: the task's own loss, and distillation from a teacher's logits."""

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of
from lissom.models.exits import all_logits
from lissom.tasks.task import Task
from lissom.training.config import LogitsLossParams
from lissom.training.objective import Objective, objective
from lissom.training.teacher import Teacher


def against_targets(task: Task) -> Objective:
    """Return the task's own loss."""
    return objective(lambda network, batch: task.loss(logits_of(network, batch), batch.targets), "targets")


def distillation_loss(
    task: Task, student: Tensor, teacher: Tensor, targets: Tensor, params: LogitsLossParams
) -> Tensor:
    """Return `hard + alpha * soft`, or the convex form `(1 - alpha) * hard + alpha * soft`; averaged over examples.

    `hard` is the loss against the targets, to which unlabelled examples contribute 0; `soft` is the loss against the
    teacher (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        task: the task, which defines both losses.
        student: the student's logits, `[batch, outputs]`.
        teacher: the teacher's logits, `[batch, outputs]`; no gradient flows into them.
        targets: `[batch]`.
        params: weights and temperature.
    """
    hard_weight = 1 - params.alpha if params.mixing == "convex" else 1.0
    soft = task.soft_loss(student, teacher, params.temperature)
    return hard_weight * task.loss(student, targets) + params.alpha * soft


def against_teacher(teacher: Teacher, params: LogitsLossParams, task: Task) -> Objective:
    """Return the distillation loss of a network against a teacher; with exits, the mean over all of them."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = teacher.signals(batch).logits
        losses = [
            distillation_loss(task, logits, target, batch.targets, params) for logits in all_logits(network, batch)
        ]
        return torch.stack(losses).mean()

    return objective(loss, f"teacher {params.model_dump_json()}")
