"""Teacher and student are trained together, from the pre-trained model, in one end-to-end objective (SPECS §1.7).

`L = CE(z_t, y) + CE(z_s, y) + alpha T^2 KL(p_t || p_s)`; the KL's gradient into the teacher is stopped, or let through
with a weight. Returns the student; the teacher that was trained along is told, not kept.
"""

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.distill.logits import distillation_loss
from lissom.distill.material import Distilled, Material
from lissom.distill.online_config import JointDistillation
from lissom.models.compressed import logits_of
from lissom.models.students import cut
from lissom.models.together import Together
from lissom.training.losses import Loss, label_loss


def distill(params: JointDistillation, material: Material) -> Distilled:
    """Train both from the base model; score the student."""
    seed = params.training.seed
    teacher, student = material.load_base(seed), cut(material.load_base(seed + 1), params.blocks)
    fitted = material.train(
        "training", Together([teacher.network, student.network]), material.lesson(student), student.pad_id,
        joint_loss(params), params.training,
        identity=params.model_dump_json(), score=material.scorer(student, params.training),
    )  # fmt: skip
    teacher_score = material.scorer(teacher, params.training)()
    return Distilled(student, {"training": fitted}, {"joint_teacher_dev_score": teacher_score})


def joint_loss(params: JointDistillation) -> Loss:
    """Return the loss of a teacher `Together` with its student."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, Together)
        teacher, student = (logits_of(member, batch) for member in network)
        total = label_loss(teacher, batch.labels)
        total = total + distillation_loss(student, teacher, batch.labels, params.loss)
        if params.co_train:
            total = total + params.co_train * params.loss.alpha * _pull(teacher, student, params.loss.temperature)
        return total

    return loss


def _pull(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(p_t || p_s), or the squared error of numbers, with a gradient into the teacher alone."""
    if teacher.shape[-1] == 1:
        return (teacher.float() - student.detach().float()).square().mean()
    log_teacher = (teacher.float() / temperature).log_softmax(-1)
    log_student = (student.detach().float() / temperature).log_softmax(-1)
    divergence: Tensor = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * torch.mean(divergence)
