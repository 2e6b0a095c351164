"""Params of distillation: a union on `method`, so that a method has only its own fields."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.section import Section
from lissom.training.config import RecoveryParams


class NoDistillation(Section):
    """Pass the teacher on."""

    method: Literal["none"]


class LogitsDistillation(Section):
    """A student made of some of the teacher's blocks learns the teacher's logits."""

    method: Literal["logits"]

    blocks: tuple[int, ...] = Field(min_length=1)
    """The teacher's blocks (0-based, ascending) that the student starts from."""

    training: RecoveryParams = RecoveryParams()

    @model_validator(mode="after")
    def _ascending(self) -> "LogitsDistillation":
        if list(self.blocks) != sorted(set(self.blocks)) or self.blocks[0] < 0:
            raise ValueError(f"blocks are {list(self.blocks)}: they must be ascending, distinct and >= 0")
        return self


DistillParams = Annotated[NoDistillation | LogitsDistillation, Field(discriminator="method")]
