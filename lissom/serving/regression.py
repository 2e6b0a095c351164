"""Conversion of outputs to answers in regression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def answers(outputs: NDArray[np.float32], serving: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return `value`, in the unit of the data, for each row of `[batch, 1]`."""
    scale = serving["scale"]
    return [{"value": float(number) * scale["deviation"] + scale["mean"]} for number in outputs[:, 0]]
