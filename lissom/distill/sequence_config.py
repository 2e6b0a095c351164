"""Params of sequence-level distillation."""

from typing import Literal

from pydantic import Field

from lissom.distill.offline_config import Blocks
from lissom.section import Section
from lissom.training.config import TrainingParams


class SequenceDistillation(Section):
    """A student made of some of the teacher's blocks learns the texts that the teacher writes (Kim and Rush 2016)."""

    method: Literal["sequence"]

    blocks: Blocks
    """The teacher's encoder blocks (0-based, ascending) that the student starts from."""

    decoder_blocks: Blocks | None = None
    """The same for the decoder; null takes as many as `blocks`, evenly spaced."""

    beams: int = Field(default=4, ge=1, le=64)
    """Hypotheses of the beam search by which the teacher writes."""

    training: TrainingParams = TrainingParams()
