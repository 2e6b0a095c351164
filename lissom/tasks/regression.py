"""Regression for texts or pairs of texts; the metric is Pearson's correlation with the targets."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from lissom.data.labels import Scale, standardised
from lissom.tasks.meter import CorrelationMeter, Meter, pearson
from lissom.tasks.metric import PEARSON, Metric
from lissom.tasks.quality import Quality
from lissom.tasks.task import Task

_CHANGED = 0.5
"""Least growth of an error, in deviations of the targets, for an answer that counts as changed."""


class Regression(Task):
    """Regression; networks predict standardised numbers, which `scale` converts to the data's unit."""

    kind: Literal["regression"] = "regression"
    scale: Scale

    @property
    def metric(self) -> Metric:
        """Return Pearson's correlation."""
        return PEARSON

    @property
    def is_distribution(self) -> bool:
        """Return false: the output is a number."""
        return False

    @property
    def auto_class(self) -> Any:
        """Return transformers' class of sequence classifiers, which has one output for a number."""
        return AutoModelForSequenceClassification

    def head_config(self) -> dict[str, Any]:
        """Return one output called `value`."""
        return {
            "num_labels": 1, "id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression",
        }  # fmt: skip

    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Return standardised numbers, float32; NaN for None."""
        return standardised(texts, self.scale)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error in float32."""
        # Masked with `where` before the square: NaN times zero would be NaN, in the gradient too.
        error = torch.where(targets.isnan(), 0.0, answers.float().squeeze(-1) - targets.nan_to_num())
        return error.square().sum() / max(1, len(targets))

    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the squared distance to the teacher's number; the temperature is ignored."""
        return F.mse_loss(answers.float(), teacher.detach().float())

    def meter(self) -> Meter:
        """Return a meter of the correlation."""
        return CorrelationMeter()

    def agreement(
        self,
        reference: NDArray[np.float32],
        logits: NDArray[np.float32],
        tolerance: float,
    ) -> float | None:
        """Return None: numbers are never exactly equal, and are compared by a tolerance elsewhere."""
        return None

    def changes(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any]
    ) -> NDArray[np.str_]:
        """Return which errors grew (`lost`) or shrank (`gained`) by more than half a deviation of the targets."""
        growth = np.abs(answers[:, 0] - targets) - np.abs(teacher[:, 0] - targets)
        return np.select([growth > _CHANGED, growth < -_CHANGED], ["lost", "gained"], "")

    def show_answers(
        self,
        logits: NDArray[np.float32],
        targets: NDArray[Any],
        texts: Sequence[str],
    ) -> list[str]:
        """Return the predicted numbers in the data's unit."""
        return [f"{value * self.scale.deviation + self.scale.mean:.4g}" for value in logits[:, 0]]

    def quality(
        self,
        answers: NDArray[np.float32],
        teacher: NDArray[np.float32],
        targets: NDArray[Any],
        bins: int,
    ) -> Quality:
        """Return correlations, and errors in the data's unit."""
        from scipy.stats import spearmanr

        predictions, teachers = answers[:, 0], teacher[:, 0]
        error = (predictions - targets).astype(np.float64) * self.scale.deviation
        constant = np.ptp(predictions) == 0 or np.ptp(targets) == 0
        figures = {
            "pearson": pearson(predictions, targets),
            "spearman": 0.0 if constant else float(spearmanr(predictions, targets).statistic),
            "mean_absolute_error": float(np.abs(error).mean()),
            "root_mean_squared_error": float(np.sqrt(np.square(error).mean())),
        }
        return Quality(
            examples=len(targets), score=figures["pearson"], agreement=pearson(predictions, teachers), figures=figures
        )

    def linear_model(self, strength: float) -> Any:
        """Return ridge regression."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / strength)

    def same_question(self, other: Task) -> bool:
        """Return whether the numbers are standardised in the same way."""
        return isinstance(other, Regression) and other.scale == self.scale

    def describe(self) -> str:
        """Return the distribution of the numbers."""
        return f"a number (mean {self.scale.mean:g}, deviation {self.scale.deviation:g})"

    @property
    def answer_columns(self) -> str:
        """Return the column of `lissom.serving.pyfunc`."""
        return "`value`"

    def serving(self) -> dict[str, Any]:
        """Return the scale and the entries of every task."""
        return {**super().serving(), "scale": self.scale.model_dump()}
