"""Conversion of logits to answers in classification."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def answers(logits: NDArray[np.float32], serving: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `label` and `probabilities` (of every label) for each row of `[batch, labels]`."""
    rows = [dict(zip(serving["labels"], row.tolist(), strict=True)) for row in softmax(logits)]
    return [{"label": max(row, key=row.__getitem__), "probabilities": row} for row in rows]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
