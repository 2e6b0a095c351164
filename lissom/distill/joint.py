"""Joint distillation: teacher and student start from the pre-trained model and are trained in one objective.

`L = CE(z_t, y) + CE(z_s, y) + alpha T^2 KL(p_t || p_s)`; the KL's gradient into the teacher is stopped, or scaled by
`co_train`. Returns the student; the teacher's score is in the metrics.
"""

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.distill.material import DistillationResult, Material
from lissom.distill.online_config import JointDistillation
from lissom.models.compressed import logits_of
from lissom.models.students import take_blocks
from lissom.models.together import Together
from lissom.tasks.task import Task
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, objective


def distill(params: JointDistillation, material: Material) -> DistillationResult:
    """Train both from the base model; score the student."""
    seed = params.training.seed
    teacher, student = material.load_base(seed), take_blocks(material.load_base(seed + 1), params.blocks)
    result = material.train(
        "training", Together([teacher.network, student.network]), material.texts(student), student.pad_id,
        joint_loss(params, material.task), params.training,
        identity=params.model_dump_json(), score=material.scorer(student, params.training),
    )  # fmt: skip
    teacher_score = material.scorer(teacher, params.training)()
    return DistillationResult(student, {"training": result}, {"joint_teacher_dev_score": teacher_score})


def joint_loss(params: JointDistillation, task: Task) -> Objective:
    """Return the loss of a teacher `Together` with its student."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, Together)
        teacher, student = (logits_of(member, batch) for member in network)
        total = task.loss(teacher, batch.targets)
        total = total + distillation_loss(task, student, teacher, batch.targets, params.loss)
        if params.co_train:
            total = total + params.co_train * params.loss.alpha * _teacher_term(
                task, teacher, student, params.loss.temperature
            )
        return total

    return objective(loss)


def _teacher_term(task: Task, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(p_t || p_s) with a gradient into the teacher only; for regression the squared distance.

    This is not the task's soft loss with swapped arguments, which would be KL(p_s || p_t).
    """
    if not task.is_distribution:
        return task.soft_loss(teacher, student, temperature)
    log_teacher = (teacher.float() / temperature).log_softmax(-1)
    log_student = (student.detach().float() / temperature).log_softmax(-1)
    divergence: Tensor = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * torch.mean(divergence)
