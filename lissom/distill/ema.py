"""Mean teacher: a student's moving average is its teacher, `theta_t <- m theta_t + (1 - m) theta_s` after every step.

Tarvainen & Valpola 2017, arXiv:1703.01780; dropout is the only noise here. The average is a member of the trained
`Together`, so that checkpoints hold it; it gets no gradient. Returns the average.
"""

import copy

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.distill.material import DistillationResult, Material
from lissom.distill.self_config import EmaDistillation
from lissom.models.compressed import logits_of
from lissom.models.students import take_blocks
from lissom.models.together import Together
from lissom.tasks.task import Task
from lissom.training.config import LogitsLossParams
from lissom.training.hooks import Hook
from lissom.training.losses import distillation_loss
from lissom.training.objective import Objective, objective


def distill(params: EmaDistillation, material: Material) -> DistillationResult:
    """Train a student against its moving average, and return the average."""
    student = take_blocks(material.teacher, params.blocks)
    average = copy.deepcopy(student)
    average.network.requires_grad_(False)
    together = Together([student.network, average.network])
    result = material.train(
        "training", together, material.texts(student), student.pad_id,
        ema_loss(params.loss, material.task), params.training,
        identity=params.model_dump_json(), score=material.scorer(average, params.training),
        hooks=[MovingAverage(params.momentum)],
    )  # fmt: skip
    average.network.requires_grad_(True)
    student_score = material.scorer(student, params.training)()
    return DistillationResult(average, {"training": result}, {"student_dev_score": student_score})


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
    """Updates the second member to the moving average of the first; buffers are copied."""

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum

    def begin(self, network: nn.Module) -> None:
        """Store the student and its average."""
        assert isinstance(network, Together)
        self._student, self._average = network

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002  (the hook's signature)
        """Update the average."""
        with torch.no_grad():
            for parameter, mean in zip(self._student.parameters(), self._average.parameters(), strict=True):
                mean.lerp_(parameter, 1 - self._momentum)
            for buffer, average_buffer in zip(self._student.buffers(), self._average.buffers(), strict=True):
                average_buffer.copy_(buffer)
