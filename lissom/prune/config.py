"""Params of pruning: a list of methods."""

from typing import Annotated, Literal

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


class BlocksPruning(Section):
    """Remove whole Transformer blocks (Men et al. 2024, arXiv:2403.03853; Sajjad et al. 2023, arXiv:2004.03844)."""

    method: Literal["blocks"]

    blocks: int = Field(ge=1)
    """Number of blocks to keep; of an encoder-decoder, of the encoder's."""

    decoder_blocks: int | None = Field(default=None, ge=1)
    """Number of the decoder's blocks to keep, of an encoder-decoder; null keeps all."""

    criterion: Literal["influence", "leave_one_out", "top", "bottom", "alternate"] = "influence"
    """Which blocks go: those that turn the hidden states of tokens least, those without which the loss is lowest, the
    top ones, the bottom ones, or evenly spaced ones between the first and the last."""

    calibration_examples: int = Field(default=64, ge=1)
    """Training examples on which the first two criteria are measured."""

    training: RecoveryParams | None = RecoveryParams()
    """Training of the model with fewer blocks against the teacher; null skips it."""


PruneMethod = Annotated[FirstOrderPruning | BlocksPruning, Field(discriminator="method")]
"""All methods; with more than one, a union discriminated by `method`."""

PruneParams = Methods[PruneMethod]
