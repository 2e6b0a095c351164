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
from lissom.tasks.labels import LabelTask
from lissom.tasks.meter import AccuracyMeter, Meter
from lissom.tasks.metric import ACCURACY, Metric
from lissom.tasks.quality import Quality


class Classification(LabelTask):
    """Classification of texts."""

    kind: Literal["classification"] = "classification"

    @property
    def metric(self) -> Metric:
        """Return accuracy."""
        return ACCURACY

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of sequence classifiers."""
        return AutoModelForSequenceClassification

    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Return indices into the labels, int64; -1 for None."""
        index = {name: number for number, name in enumerate(self.labels)}
        return np.asarray([UNLABELLED if text is None else index[text] for text in texts], dtype=np.int64)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in float32."""
        total = F.cross_entropy(answers.float(), targets, ignore_index=UNLABELLED, reduction="sum")
        return total / max(1, len(targets))

    def meter(self) -> Meter:
        """Return a meter of the accuracy."""
        return AccuracyMeter()

    def changes(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any]
    ) -> NDArray[np.str_]:
        """Return how every predicted label differs from the teacher's."""
        predictions, teachers = answers.argmax(1), teacher.argmax(1)
        kinds = [(teachers == targets), (predictions == targets)]
        return np.where(predictions == teachers, "", np.select(kinds, ["lost", "gained"], "other"))

    def show_answers(
        self,
        logits: NDArray[np.float32],
        targets: NDArray[Any],
        texts: Sequence[str],
    ) -> list[str]:
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

    @property
    def answer_columns(self) -> str:
        """Return the columns of `lissom.serving.pyfunc`."""
        return "`label`, `probability` and `probability_of_<label>`"


def _confusion(targets: NDArray[Any], predictions: NDArray[Any], labels: int) -> tuple[tuple[int, ...], ...]:
    counts = np.bincount(targets * labels + predictions, minlength=labels**2).reshape(labels, labels)
    return tuple(tuple(map(int, row)) for row in counts)


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
