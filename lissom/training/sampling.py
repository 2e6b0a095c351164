"""The examples that ranges and roundings are calibrated on."""

import numpy as np
from numpy.typing import NDArray

from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.models.compressed import CompressedModel
from lissom.training.lesson import Lesson


def calibration_batches(
    model: CompressedModel, lesson: Lesson, count: int, seed: int, batch_size: int = 32
) -> list[Batch]:
    """Return `count` labelled training examples, drawn at random, in batches."""
    data = lesson.texts(model)
    members = calibration_sample(data, count, seed)
    parts = np.split(members, range(batch_size, len(members), batch_size))
    return [collate(data, part, model.pad_id) for part in parts]


def calibration_sample(data: Encoded, count: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of `count` labelled examples (of all, if there are fewer), drawn at random, in random order.

    Long texts have wider ranges than short ones, so that batches must not be sorted by length.
    """
    return np.random.default_rng(seed).permutation(data.labelled(len(data)))[:count]
