"""Params of quantisation: a list of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.gguf.config import FileTypeName
from lissom.section import Methods, Section
from lissom.training.config import LogitsLossParams, RecoveryParams


class _RoundedTrainingParams(RecoveryParams):
    """A training with rounded weights."""

    @model_validator(mode="after")
    def _trains_the_weights(self) -> "_RoundedTrainingParams":
        if self.lora is not None:
            raise ValueError("lora: weights that are rounded in a training must be trained themselves; set it to null")
        return self


class Int8TrainingParams(_RoundedTrainingParams):
    """Training with fake quantisation: short, with a small learning rate, and in float32 for precise scales."""

    epochs: float = Field(default=1, gt=0)
    """Passes over the training set; a fraction stops within one."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""

    freeze_word_table: bool = False
    """Freeze the word embeddings."""

    precision: Literal["float32"] = "float32"
    """Autocast type; the rounding of bfloat16 would interfere with that of the quantisation."""


class Int8Training(Section):
    """Quantisation-aware training for 8-bit integer matrix products."""

    method: Literal["int8"]

    weight_bits: Literal[7, 8] = 7
    """Bits of the weights of matrix products. 7 is exact on every x86 CPU; 8 saturates on those without VNNI."""

    observe: float = Field(default=0.67, gt=0, le=1)
    """Share of the training during which activation ranges follow the data; they are frozen afterwards."""

    calibration_examples: int = Field(default=256, ge=1)
    """Labelled training examples, drawn at random, from which the initial activation ranges are observed."""

    seed: int = 0
    """Seed of that draw."""

    training: Int8TrainingParams | None = Int8TrainingParams()
    """Training of the fake-quantised model against the teacher; null quantises by calibration alone."""


class GgufTrainingParams(_RoundedTrainingParams):
    """Training with weights rounded as in the file: short, with a small learning rate."""

    epochs: float = Field(default=1, gt=0)
    """Passes over the training set; a fraction stops within one."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""

    freeze_word_table: bool = True
    """Freeze the word embeddings, which the file holds with 6 bits or more."""

    loss: LogitsLossParams = LogitsLossParams(temperature=1, alpha=1, mixing="convex")
    """The loss; by default the teacher's distribution alone."""


class GgufTraining(Section):
    """Quantisation-aware training for a type of GGUF file (export.formats: [onnx, gguf])."""

    method: Literal["gguf"]

    type: FileTypeName = "q4_0"
    """Type of the file, one of export.gguf.types."""

    training: GgufTrainingParams | None = GgufTrainingParams()
    """Training of the rounded model against the teacher; null rounds alone."""


QuantizeMethod = Annotated[Int8Training | GgufTraining, Field(discriminator="method")]
"""All methods."""

QuantizeParams = Methods[QuantizeMethod]
