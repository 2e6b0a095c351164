"""A number for every text or pair of texts; judged by Pearson's correlation with the truth."""

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


class Regression(Task):
    """Networks predict standardised numbers; `scale` brings them back into the data's unit."""

    kind: Literal["regression"] = "regression"
    scale: Scale

    @property
    def metric(self) -> Metric:
        """Return Pearson's correlation."""
        return PEARSON

    @property
    def outputs(self) -> int:
        """Return one."""
        return 1

    @property
    def is_distribution(self) -> bool:
        """Return false: an answer is a number."""
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
        """Return standardised numbers, float32; NaN where there is none."""
        return standardised(texts, self.scale)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error in float32."""
        # Masked with `where` before the square: NaN times zero would be NaN, in the gradient too.
        error = torch.where(targets.isnan(), 0.0, answers.float().squeeze(-1) - targets.nan_to_num())
        return error.square().sum() / max(1, len(targets))

    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the squared distance to the teacher's number; the temperature plays no part."""
        return F.mse_loss(answers.float(), teacher.detach().float())

    def meter(self) -> Meter:
        """Return a meter of the correlation."""
        return CorrelationMeter()

    def agreement(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float | None:  # noqa: ARG002
        """Return None: two numbers are never quite equal, and their tolerance is another figure."""
        return None

    def quality(
        self,
        answers: NDArray[np.float32],
        teacher: NDArray[np.float32],
        targets: NDArray[Any],
        bins: int,  # noqa: ARG002
    ) -> Quality:
        """Return correlations, and errors in the data's unit."""
        from scipy.stats import spearmanr

        found, teachers = answers[:, 0], teacher[:, 0]
        error = (found - targets).astype(np.float64) * self.scale.deviation
        constant = np.ptp(found) == 0 or np.ptp(targets) == 0
        figures = {
            "pearson": pearson(found, targets),
            "spearman": 0.0 if constant else float(spearmanr(found, targets).statistic),
            "mean_absolute_error": float(np.abs(error).mean()),
            "root_mean_squared_error": float(np.sqrt(np.square(error).mean())),
        }
        return Quality(
            examples=len(targets), score=figures["pearson"], agreement=pearson(found, teachers), figures=figures
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
        """Return the scale besides what every task tells."""
        return {**super().serving(), "scale": self.scale.model_dump()}
