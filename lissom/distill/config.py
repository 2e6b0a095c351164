"""Params of distillation: a union on `method`, so that a method has only its own fields.

Offline methods learn from the fine-tuned teacher, online ones train several networks at once, self-distillation
makes a network its own teacher.
"""

from typing import Annotated

from pydantic import Field

from lissom.distill.blockless_config import LstmDistillation, StaticDistillation
from lissom.distill.offline_config import (
    DistilBertDistillation,
    LogitsDistillation,
    MobileBertDistillation,
    NoDistillation,
    PatientDistillation,
    TinyBertDistillation,
)
from lissom.distill.online_config import JointDistillation, MutualDistillation
from lissom.distill.self_config import (
    BornAgainDistillation,
    DeepToShallowDistillation,
    EmaDistillation,
    FastBertDistillation,
)
from lissom.distill.sequence_config import SequenceDistillation

DistillParams = Annotated[
    NoDistillation
    | LogitsDistillation
    | SequenceDistillation
    | DistilBertDistillation
    | PatientDistillation
    | TinyBertDistillation
    | MobileBertDistillation
    | LstmDistillation
    | StaticDistillation
    | MutualDistillation
    | JointDistillation
    | FastBertDistillation
    | DeepToShallowDistillation
    | BornAgainDistillation
    | EmaDistillation,
    Field(discriminator="method"),
]

__all__ = ["DistillParams", "NoDistillation"]
