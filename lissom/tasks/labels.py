"""What tasks that choose one of several labels have in common, whether for a text or for every word of it."""

from abc import ABC
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lissom.tasks.task import Task


class LabelTask(Task, ABC):
    """A choice of one label; output i of a network is the logit of `labels[i]`."""

    labels: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Return the number of labels."""
        return len(self.labels)

    @property
    def is_distribution(self) -> bool:
        """Return true: the outputs are logits of a distribution over the labels."""
        return True

    def head_config(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}

    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return T^2 KL(softmax(teacher / T) || softmax(answers / T)), summed over labels (Hinton et al. 2015, §2).

        The factor T^2 keeps the gradient's size the same at every temperature: T (p_s - p_t) per row.
        """
        return soft_target_loss(answers, teacher, temperature)

    def agreement(self, reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> float | None:
        """Return the share of rows with the same label, or with one that the reference has as a near tie."""
        return agreement_of(reference, logits, tolerance)

    def same_question(self, other: Task) -> bool:
        """Return whether the task is of the same kind with the same labels, in the same order."""
        return isinstance(other, LabelTask) and (other.kind, other.labels) == (self.kind, self.labels)

    def describe(self) -> str:
        """Return the labels."""
        return f"the labels {', '.join(self.labels)}"

    def serving(self) -> dict[str, Any]:
        """Return the labels and the entries of every task."""
        return {**super().serving(), "labels": self.labels}


def agreement_of(reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> float:
    """Return the share of rows whose largest logit is at the same place, or within `tolerance` in the reference."""
    predicted = np.take_along_axis(reference, logits.argmax(1)[:, None], 1)[:, 0]
    return float((reference.max(1) - predicted <= tolerance).mean())


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits `[rows, classes]`, averaged over rows."""
    soft_student = F.log_softmax(student.float() / temperature, dim=-1)
    soft_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)
