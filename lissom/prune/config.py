"""Params of pruning: a list of methods."""

from typing import Literal

from pydantic import Field

from lissom.section import Methods, Section
from lissom.training.config import RecoveryParams


class FirstOrderPruning(Section):
    """Remove the heads and FFN neurons whose gates the loss feels least."""

    method: Literal["first_order"]

    heads: float = Field(default=0.5, gt=0, le=1)
    """Share of all attention heads to keep, over all blocks; every block keeps at least one."""

    neurons: float = Field(default=0.5, gt=0, le=1)
    """Share of all FFN neurons to keep, over all blocks; every block keeps at least `neuron_multiple`."""

    neuron_multiple: int = Field(default=32, ge=1)
    """Neurons are removed so that every block keeps a multiple of this: the width that kernels like."""

    uniform: bool = False
    """Keep the same counts in every block."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples over which importance is averaged."""

    training: RecoveryParams | None = RecoveryParams()
    """Of the pruned model against the teacher; null leaves it as it is."""


PruneMethod = FirstOrderPruning
"""All methods; with a second one a union, told apart by `method`."""

PruneParams = Methods[PruneMethod]
