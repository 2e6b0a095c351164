"""Params of pruning: a list of methods."""

from typing import Literal

from pydantic import Field

from lissom.section import Methods, Section
from lissom.training.config import RecoveryParams


class FirstOrderPruning(Section):
    """Remove the heads and FFN neurons with the least first-order importance."""

    method: Literal["first_order"]

    heads: float = Field(default=0.5, gt=0, le=1)
    """Share of all attention heads to keep, over all blocks; every block keeps at least one."""

    neurons: float = Field(default=0.5, gt=0, le=1)
    """Share of all FFN neurons to keep, over all blocks; every block keeps at least `neuron_multiple`."""

    neuron_multiple: int = Field(default=32, ge=1)
    """Every block keeps a multiple of this number of neurons, for efficient kernels."""

    uniform: bool = False
    """Keep the same counts in every block."""

    calibration_examples: int = Field(default=512, ge=1)
    """Training examples over which importance is averaged."""

    training: RecoveryParams | None = RecoveryParams()
    """Training of the pruned model against the teacher; null skips it."""


PruneMethod = FirstOrderPruning
"""All methods; with more than one, a union discriminated by `method`."""

PruneParams = Methods[PruneMethod]
