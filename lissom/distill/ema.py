"""The student's own moving average teaches it: `theta_t <- m theta_t + (1 - m) theta_s` after every step.

Mean teacher, Tarvainen & Valpola 2017, arXiv:1703.01780 (there against noise; here dropout is the noise). The average
is a member of what is trained, so that checkpoints hold it; it gets no gradient. Returns the average.
"""

import copy

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.distill.material import Distilled, Material
from lissom.distill.self_config import EmaDistillation
from lissom.models.compressed import logits_of
from lissom.models.students import take_blocks
from lissom.models.together import Together
from lissom.tasks.task import Task
from lissom.training.config import LogitsLossParams
from lissom.training.hooks import Hook
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, objective


def distill(params: EmaDistillation, material: Material) -> Distilled:
    """Train a student against its average; the average, which is smoother, is the result."""
    student = take_blocks(material.teacher, params.blocks)
    average = copy.deepcopy(student)
    average.network.requires_grad_(False)
    together = Together([student.network, average.network])
    fitted = material.train(
        "training", together, material.texts(student), student.pad_id,
        ema_loss(params.loss, material.task), params.training,
        identity=params.model_dump_json(), score=material.scorer(average, params.training),
        hooks=[MovingAverage(params.momentum)],
    )  # fmt: skip
    average.network.requires_grad_(True)
    student_score = material.scorer(student, params.training)()
    return Distilled(average, {"training": fitted}, {"student_dev_score": student_score})


def ema_loss(params: LogitsLossParams, task: Task) -> Objective:
    """Return the loss of a student `Together` with its average."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, Together)
        student, average = network
        average.eval()
        with torch.no_grad():
            goal = logits_of(average, batch)
        return distillation_loss(task, logits_of(student, batch), goal, batch.targets, params)

    return objective(loss, needs_internals=True)  # the average runs in another mode


class MovingAverage(Hook):
    """Let the second member follow the first; buffers are copied."""

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum

    def begin(self, network: nn.Module) -> None:
        """Take the student and its average."""
        assert isinstance(network, Together)
        self._student, self._average = network

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Move the average."""
        with torch.no_grad():
            for own, mean in zip(self._student.parameters(), self._average.parameters(), strict=True):
                mean.lerp_(own, 1 - self._momentum)
            for buffer, copied in zip(self._student.buffers(), self._average.buffers(), strict=True):
                copied.copy_(buffer)
