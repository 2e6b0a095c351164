"""Labels, which are names of classes or numbers: conversion from a source's values to texts and to arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.data.config import DataParams
from lissom.errors import DataError
from lissom.section import Section

UNLABELLED = -1
"""Target of an unlabelled example in classification; in regression it is NaN."""


class Scale(Section):
    """Mean and standard deviation of the numbers to predict, over train.

    Networks predict standardised numbers, so that losses, learning rates and tolerances do not depend on the unit.
    """

    mean: float
    deviation: float


def label_text(value: Any, task: DataParams, place: str) -> str:
    """Return the text of a label, as stored on disk: its name or its number.

    Raises:
        DataError: it is a list (several labels for one text), a fraction in classification, or not a number in
            regression.
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise DataError(
            f"{place}: the label is {str(value)[:40]}: several labels for one text are not supported. Losses and "
            "figures take them as exclusive: a softmax over them is what a teacher teaches. Make a task of each label"
        )
    if task.is_numeric:
        return _number_text(value, task.task, place)
    if isinstance(value, float) and not value.is_integer():
        raise DataError(
            f"{place}: the label is {value}, a number; set data.task: regression to predict it, or name classes"
        )
    # A column of whole numbers with a gap is read as floats: 1.0 is the class 1 all the same.
    return str(int(value)) if isinstance(value, float) else str(value)


def standardised(texts: Sequence[str | None], scale: Scale) -> NDArray[np.float32]:
    """Return standardised numbers, `[examples]`; NaN for None."""
    numbers = np.asarray([math.nan if text is None else float(text) for text in texts], dtype=np.float64)
    return ((numbers - scale.mean) / scale.deviation).astype(np.float32)


def labelled(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of targets, `[rows]` or `[rows, 2]` (the label first), have a label, `[rows]`."""
    labels = targets if targets.ndim == 1 else targets[:, 0]
    mask = ~np.isnan(labels) if np.issubdtype(labels.dtype, np.floating) else labels != UNLABELLED
    return np.asarray(mask, dtype=np.bool_)


def _number_text(value: Any, task: str, place: str) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{place}: the label is {value!r}; with data.task: {task} a finite number is needed")
    return repr(number)
