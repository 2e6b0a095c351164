"""Single-label classification of texts or pairs of texts; the metric is accuracy."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from lissom.data.labels import UNLABELLED
from lissom.serving.classification import softmax
from lissom.tasks.meter import AccuracyMeter, Meter
from lissom.tasks.metric import ACCURACY, Metric
from lissom.tasks.quality import Quality
from lissom.tasks.task import Task


class Classification(Task):
    """Classification; output i of a network is the logit of `labels[i]`."""

    kind: Literal["classification"] = "classification"
    labels: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """Return accuracy."""
        return ACCURACY

    @property
    def outputs(self) -> int:
        """Return the number of labels."""
        return len(self.labels)

    @property
    def is_distribution(self) -> bool:
        """Return true: the outputs are logits of a distribution over the labels."""
        return True

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of sequence classifiers."""
        return AutoModelForSequenceClassification

    def head_config(self) -> dict[str, Any]:
        """Return number and names of the labels."""
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}

    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Return indices into the labels, int64; -1 for None."""
        index = {name: number for number, name in enumerate(self.labels)}
        return np.asarray([UNLABELLED if text is None else index[text] for text in texts], dtype=np.int64)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in float32."""
        total = F.cross_entropy(answers.float(), targets, ignore_index=UNLABELLED, reduction="sum")
        return total / max(1, len(targets))

    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return T^2 KL(softmax(teacher / T) || softmax(answers / T)), summed over labels (Hinton et al. 2015, §2).

        The factor T^2 keeps the gradient's size the same at every temperature: T (p_s - p_t) per example.
        """
        return soft_target_loss(answers, teacher, temperature)

    def meter(self) -> Meter:
        """Return a meter of the accuracy."""
        return AccuracyMeter()

    def agreement(self, reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> float | None:
        """Return the share of examples with the same label, or with one that the reference has as a near tie."""
        predicted = np.take_along_axis(reference, logits.argmax(1)[:, None], 1)[:, 0]
        return float((reference.max(1) - predicted <= tolerance).mean())

    def changes(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any]
    ) -> NDArray[np.str_]:
        """Return how every predicted label differs from the teacher's."""
        predictions, teachers = answers.argmax(1), teacher.argmax(1)
        kinds = [(teachers == targets), (predictions == targets)]
        return np.where(predictions == teachers, "", np.select(kinds, ["lost", "gained"], "other"))

    def show_answers(self, logits: NDArray[np.float32]) -> list[str]:
        """Return the predicted labels."""
        return [self.labels[index] for index in logits.argmax(1)]

    def quality(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any], bins: int
    ) -> Quality:
        """Return accuracy, F1, calibration error, and differences to the teacher's predictions.

        `flip_rate` is the share of examples that the teacher predicts correctly and the variant does not; `gain_rate`
        is the reverse.
        """
        from sklearn.metrics import precision_recall_fscore_support

        predictions, teachers = answers.argmax(1), teacher.argmax(1)
        right, teacher_right = predictions == targets, teachers == targets
        numbers = list(range(len(self.labels)))
        rows = zip(*precision_recall_fscore_support(targets, predictions, labels=numbers, zero_division=0), strict=True)
        per_label = {
            label: {"precision": float(p), "recall": float(r), "f1": float(f1), "support": int(support)}
            for label, (p, r, f1, support) in zip(self.labels, rows, strict=True)
        }
        accuracy = float(right.mean())
        figures = {
            "accuracy": accuracy,
            "macro_f1": float(np.mean([row["f1"] for row in per_label.values()])),
            "calibration_error": expected_calibration_error(softmax(answers), targets, bins),
            "flip_rate": float((teacher_right & ~right).mean()),
            "gain_rate": float((right & ~teacher_right).mean()),
        }
        return Quality(
            examples=len(targets), score=accuracy, agreement=float((predictions == teachers).mean()), figures=figures,
            per_label=per_label, confusion=_confusion(targets, predictions, len(self.labels)),
        )  # fmt: skip

    def linear_model(self, strength: float) -> Any:
        """Return logistic regression."""
        from sklearn.linear_model import LogisticRegression

        solver = "liblinear" if self.outputs == 2 else "lbfgs"
        return LogisticRegression(C=strength, max_iter=300, solver=solver)

    def linear_answers(self, predictions: NDArray[Any]) -> NDArray[np.float32]:
        """Return one-hot rows."""
        rows: NDArray[np.float32] = np.eye(self.outputs, dtype=np.float32)[predictions]
        return rows

    def same_question(self, other: Task) -> bool:
        """Return whether the labels are the same, in the same order."""
        return isinstance(other, Classification) and other.labels == self.labels

    def describe(self) -> str:
        """Return the labels."""
        return f"the labels {', '.join(self.labels)}"

    @property
    def answer_columns(self) -> str:
        """Return the columns of `lissom.serving.pyfunc`."""
        return "`label`, `probability` and `probability_of_<label>`"

    def serving(self) -> dict[str, Any]:
        """Return the labels and the entries of every task."""
        return {**super().serving(), "labels": self.labels}


def _confusion(targets: NDArray[Any], predictions: NDArray[Any], labels: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(targets * labels + predictions, minlength=labels**2).reshape(labels, labels)
    return tuple(tuple(map(int, row)) for row in counts)


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits `[rows, classes]`, averaged over rows."""
    soft_student = F.log_softmax(student.float() / temperature, dim=-1)
    soft_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)


def expected_calibration_error(probabilities: NDArray[np.float32], labels: NDArray[Any], bins: int) -> float:
    """Return sum over bins of |accuracy - confidence| weighted by the bin's share (Guo et al. 2017, eq. 3).

    Bins are of equal width over (0, 1], closed on the right.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    members = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    error = 0.0
    for number in np.unique(members):
        inside = members == number
        error += float(inside.mean()) * abs(float(right[inside].mean()) - float(confidence[inside].mean()))
    return error
