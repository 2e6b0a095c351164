"""How good are the answers, and how do they differ from the teacher's?"""

import numpy as np
from numpy.typing import NDArray

from lissom.section import Section
from lissom.serving.classifier import softmax


class LabelQuality(Section):
    """One label's figures."""

    precision: float
    recall: float
    f1: float
    support: int


class Quality(Section):
    """The figures of one variant on the test set."""

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


def measure_quality(
    logits: NDArray[np.float32],
    teacher_logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    bins: int,
) -> Quality:
    """Compare logits `[examples, labels]` with the truth `[examples]` and with the teacher's logits."""
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


def expected_calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int) -> float:
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
