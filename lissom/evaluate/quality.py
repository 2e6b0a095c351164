"""How good are the answers, and how do they differ from the teacher's?"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lissom.data.labels import LabelArray, Scale
from lissom.data.score import pearson
from lissom.section import Section
from lissom.serving.classifier import softmax


class LabelQuality(Section):
    """One label's figures."""

    precision: float
    recall: float
    f1: float
    support: int


class Quality(Section):
    """The figures of one classifier on the test set."""

    task: Literal["classification"] = "classification"
    examples: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    """Expected calibration error: mean distance of confidence and accuracy, over bins of confidence."""
    agreement: float
    """Share of examples with the teacher's label."""
    flip_rate: float
    """Share of examples that the teacher has right and this variant wrong (negative flips)."""
    gain_rate: float
    """Share of examples that the teacher has wrong and this variant right."""
    per_label: dict[str, LabelQuality]

    @property
    def score(self) -> float:
        """Return the figure that models are judged by."""
        return self.accuracy


class NumberQuality(Section):
    """The figures of one variant that predicts a number, on the test set; errors in the number's own unit."""

    task: Literal["regression"] = "regression"
    examples: int
    pearson: float
    spearman: float
    mean_absolute_error: float
    root_mean_squared_error: float
    agreement: float
    """Pearson's correlation with the teacher's numbers."""

    @property
    def score(self) -> float:
        """Return the figure that models are judged by."""
        return self.pearson


AnyQuality = Annotated[Quality | NumberQuality, Field(discriminator="task")]


def measure_quality(
    logits: NDArray[np.float32],
    teacher_logits: NDArray[np.float32],
    labels: LabelArray,
    coding: Sequence[str] | Scale,
    bins: int,
) -> Quality | NumberQuality:
    """Compare answers `[examples, outputs]` with the truth `[examples]` and with the teacher's answers.

    Args:
        logits: of the variant.
        teacher_logits: of the teacher.
        labels: the truth.
        coding: names of the labels, or how the numbers were standardised.
        bins: bins of the calibration error.
    """
    if isinstance(coding, Scale):
        return _measure_numbers(logits[:, 0], teacher_logits[:, 0], labels, coding)
    return _measure_labels(logits, teacher_logits, labels, coding, bins)


def _measure_numbers(
    found: NDArray[np.float32], teacher: NDArray[np.float32], truth: LabelArray, scale: Scale
) -> NumberQuality:
    from scipy.stats import rankdata

    error = (found - truth).astype(np.float64) * scale.deviation
    return NumberQuality(
        examples=len(truth),
        pearson=pearson(found, truth),
        spearman=pearson(rankdata(found), rankdata(truth)),
        mean_absolute_error=float(np.abs(error).mean()),
        root_mean_squared_error=float(np.sqrt(np.square(error).mean())),
        agreement=pearson(found, teacher),
    )


def _measure_labels(
    logits: NDArray[np.float32],
    teacher_logits: NDArray[np.float32],
    labels: LabelArray,
    names: Sequence[str],
    bins: int,
) -> Quality:
    predicted, teacher = logits.argmax(1), teacher_logits.argmax(1)
    right, teacher_right = predicted == labels, teacher == labels
    per_label = {name: _label_quality(predicted == index, labels == index) for index, name in enumerate(names)}
    return Quality(
        examples=len(labels),
        accuracy=float(right.mean()),
        macro_f1=float(np.mean([label.f1 for label in per_label.values()])),
        calibration_error=expected_calibration_error(softmax(logits), labels, bins),
        agreement=float((predicted == teacher).mean()),
        flip_rate=float((teacher_right & ~right).mean()),
        gain_rate=float((right & ~teacher_right).mean()),
        per_label=per_label,
    )


def expected_calibration_error(probabilities: NDArray[np.float32], labels: LabelArray, bins: int) -> float:
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


def _label_quality(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> LabelQuality:
    hits = int((predicted & true).sum())
    precision = hits / predicted.sum() if predicted.any() else 0.0
    recall = hits / true.sum() if true.any() else 0.0
    f1 = 2 * hits / (predicted.sum() + true.sum()) if predicted.any() or true.any() else 0.0
    return LabelQuality(precision=float(precision), recall=float(recall), f1=float(f1), support=int(true.sum()))
