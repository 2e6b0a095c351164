"""Params of the methods in which all networks learn at the same time."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.distill.offline_config import Blocks
from lissom.section import Section
from lissom.training.config import LogitsLossParams, TrainingParams


class PeerParams(Section):
    """One of several students that learn from each other."""

    blocks: Blocks
    """Blocks of the start model (0-based, ascending) that the peer is made of."""

    start: Literal["teacher", "base", "random"] = "base"
    """Whose weights: the fine-tuned teacher's, the pre-trained base model's, or random ones."""

    seed: int = 0
    """Seed of new weights: identical peers learn nothing from each other."""


class MutualDistillation(Section):
    """Deep mutual learning: peers learn labels and each other (Zhang et al. 2018, arXiv:1706.00384)."""

    method: Literal["mutual"]

    peers: tuple[PeerParams, ...] = Field(min_length=2)
    """The peers; the result is the one with the best dev score."""

    kl_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean KL of the other peers to this one."""

    rampup: float = Field(default=0.2, ge=0, le=1)
    """Share of the training over which that weight rises linearly from 0."""

    training: TrainingParams = TrainingParams(epochs=3, learning_rate=1e-4)

    @model_validator(mode="after")
    def _different(self) -> "MutualDistillation":
        if len(set(self.peers)) < len(self.peers):
            raise ValueError("two peers are identical: give them other blocks, another start or another seed")
        return self


class JointDistillation(Section):
    """Teacher and student are trained together from the base model, in one objective."""

    method: Literal["joint"]

    blocks: Blocks
    """Blocks of the base model (0-based, ascending) that the student is made of."""

    loss: LogitsLossParams = LogitsLossParams()
    """The student's loss; the teacher's is the cross-entropy."""

    co_train: float = Field(default=0.0, ge=0)
    """Share of the KL's gradient that flows into the teacher; 0 stops it."""

    training: TrainingParams = TrainingParams(epochs=3, learning_rate=1e-4)
