"""Soft targets: the student learns the teacher's softened distribution over labels.

Hinton et al. 2015, arXiv:1503.02531; the weighting CE + alpha T^2 KL is that of task-level DistilBERT (SPECS §1.0.1).
Returns losses for `fit`, and a student of some of the teacher's blocks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.data.batches import Batch
from lissom.distill.material import Distilled, Material
from lissom.distill.offline_config import LogitsDistillation
from lissom.distill.teacher import Teacher
from lissom.models.exits import all_logits
from lissom.models.students import cut, randomized
from lissom.training.config import LogitsLossParams
from lissom.training.losses import Loss, label_loss


def distill(params: LogitsDistillation, material: Material) -> Distilled:
    """Cut the student out of the teacher and train it on the teacher's logits."""
    student = cut(material.teacher, params.blocks)
    if params.start == "random":
        student = randomized(student, params.training.seed)
    fitted = material.train(
        "training",
        student.network,
        material.lesson(student),
        student.pad_id,
        against_teacher(material.teacher_logits(params.training), params.training.loss),
        params.training,
        identity=params.model_dump_json(),
        score=material.scorer(student, params.training),
    )
    return Distilled(student, {"training": fitted})


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over labels, averaged over examples.

    The factor T^2 keeps the gradient's size the same at every temperature: T (p_s - p_t) per example. A single logit
    is a number, whose softmax is always 1: there the squared error stands in, and the temperature plays no part.

    Args:
        student: logits `[batch, labels]`, or `[batch, 1]` for a number.
        teacher: the same; no gradient flows into them.
        temperature: T > 0.
    """
    if student.shape[-1] == 1:
        return F.mse_loss(student.float(), teacher.detach().float())
    soft_student = F.log_softmax(student.float() / temperature, dim=-1)
    soft_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, params: LogitsLossParams) -> Tensor:
    """Return CE + alpha T^2 KL, or its convex form; unlabelled examples (-1) have no CE."""
    hard_weight = 1 - params.alpha if params.mixing == "convex" else 1.0
    soft = soft_target_loss(student, teacher, params.temperature)
    return hard_weight * label_loss(student, labels) + params.alpha * soft


def against_teacher(teacher: Teacher, params: LogitsLossParams) -> Loss:
    """Return the distillation loss of a network against a teacher, for `fit`; with exits, the mean over all."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = teacher.signals(batch).logits
        answers = [distillation_loss(logits, target, batch.labels, params) for logits in all_logits(network, batch)]
        return torch.stack(answers).mean()

    return loss
