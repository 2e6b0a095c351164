"""FastBERT: an exit after every block is distilled from the last exit, and easy inputs leave early.

Liu et al. 2020, arXiv:2004.02178. First backbone and last exit are trained on the task; then both are frozen and the
other exits learn the last one's distribution, without labels (§3.2). Returns the model with its exits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.distill.material import DistillationResult, Material
from lissom.distill.self_config import FastBertDistillation
from lissom.models.compressed import logits_of
from lissom.models.edits import AddExits
from lissom.models.exits import all_logits
from lissom.models.students import take_blocks
from lissom.tasks.task import Task
from lissom.training.config import LogitsLossParams
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, objective
from lissom.training.teacher import Teacher


def distill(params: FastBertDistillation, material: Material) -> DistillationResult:
    """Add the exits, train the last one with the backbone, then the others alone."""
    student = take_blocks(material.teacher, params.blocks)
    torch.manual_seed(params.training.seed)
    student.edit([AddExits(size=params.exit_size)])
    data, identity = material.texts(student), params.model_dump_json()
    score = material.scorer(student, params.backbone_training)
    exits = list(student.network.exits)
    for exit_module in exits[:-1]:
        exit_module.requires_grad_(False)
    answers = material.teacher_logits(params.backbone_training)
    backbone_result = material.train(
        "backbone", student.network, data, student.pad_id,
        last_exit_loss(answers, params.backbone_training.loss, material.task), params.backbone_training,
        identity=identity, score=score,
    )  # fmt: skip
    student.network.requires_grad_(False)
    for exit_module in exits[:-1]:
        exit_module.requires_grad_(True)
    exits_result = material.train(
        "exits", student.network, data, student.pad_id, exits_loss(params.direction), params.training,
        identity=identity,
    )  # fmt: skip
    student.network.requires_grad_(True)
    return DistillationResult(student, {"backbone": backbone_result, "exits": exits_result})


def last_exit_loss(teacher: Teacher, params: LogitsLossParams, task: Task) -> Objective:
    """Return the distillation loss of the last exit alone."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return distillation_loss(task, logits_of(network, batch), teacher.signals(batch).logits, batch.targets, params)

    return objective(loss)


def exits_loss(direction: str) -> Objective:
    """Return the sum over all exits but the last of their KL with the last; frozen parts run without dropout."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, PreTrainedModel)
        network.eval()  # the exits have no dropout of their own
        *exits, last = all_logits(network, batch)
        return torch.stack([divergence(logits, last, direction) for logits in exits]).sum()

    return objective(loss)


def divergence(student: Tensor, teacher: Tensor, direction: str) -> Tensor:
    """Return the KL between two distributions over labels, `[batch, labels]` logits, averaged over examples.

    Args:
        student: an exit's logits.
        teacher: the last exit's logits; no gradient flows into them.
        direction: `student_teacher` is KL(student || teacher), as printed (eq. 6); `teacher_student` the reverse.
    """
    log_student = F.log_softmax(student.float(), dim=-1)
    log_teacher = F.log_softmax(teacher.detach().float(), dim=-1)
    if direction == "student_teacher":
        log_student, log_teacher = log_teacher, log_student
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
