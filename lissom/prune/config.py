"""Params of pruning: a union on `method`."""

from typing import Annotated, Literal

from pydantic import Field

from lissom.section import Section
from lissom.training.config import RecoveryParams


class NoPruning(Section):
    """Pass the model on."""

    method: Literal["none"]


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

    training: RecoveryParams = RecoveryParams()


PruneParams = Annotated[NoPruning | FirstOrderPruning, Field(discriminator="method")]
