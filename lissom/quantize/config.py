"""Params of quantisation: a list of methods."""

from typing import Literal

from pydantic import Field

from lissom.section import Methods, Section
from lissom.training.config import RecoveryParams


class Int8TrainingParams(RecoveryParams):
    """The training with fake quantisation: short, gentle, and in float32, where q * scale is exact enough."""

    epochs: float = Field(default=1, gt=0)
    """Passes over the training set; a fraction stops within one."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""

    freeze_word_table: bool = False
    """Leave the word embeddings as they are."""

    precision: Literal["float32"] = "float32"
    """bfloat16 would round the very values that quantisation rounds."""


class Int8Training(Section):
    """Quantisation-aware training for 8-bit integer matrix products."""

    method: Literal["int8"]

    weight_bits: Literal[7, 8] = 7
    """Bits of the weights of matrix products. 7 is exact on every x86 CPU; 8 saturates on those without VNNI."""

    observe: float = Field(default=0.67, gt=0, le=1)
    """Share of the training during which activation ranges follow the data; they are frozen afterwards."""

    calibration_examples: int = Field(default=256, ge=1)
    """Training examples that set the first activation ranges."""

    training: Int8TrainingParams | None = Int8TrainingParams()
    """Of the fake-quantised model against the teacher; null quantises after training, by calibration alone."""


QuantizeMethod = Int8Training
"""All methods; with a second one a union, told apart by `method`."""

QuantizeParams = Methods[QuantizeMethod]
