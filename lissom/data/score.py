"""The one figure by which models of a task are judged: accuracy, or for numbers Pearson's correlation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.labels import LabelArray


def score_of(answers: NDArray[np.float32], labels: LabelArray) -> float:
    """Return the share of examples whose largest logit is the label's; for numbers, their correlation with the truth.

    Args:
        answers: logits `[examples, labels]`, or numbers `[examples, 1]`.
        labels: `[examples]`, all known.
    """
    if np.issubdtype(labels.dtype, np.floating):
        return pearson(answers[:, 0], labels)
    return float((answers.argmax(1) == labels).mean())


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation, -1 to 1; 0 where one side is constant: it says nothing of the other."""
    left, right = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (first, second))
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else 0.0
