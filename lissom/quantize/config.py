"""Params of quantisation: a list of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.gguf.config import FileTypeName
from lissom.models.config import ScaleName
from lissom.quantize.compact_config import Half, ProductQuantization, RoundedTrainingParams, WeightOnly
from lissom.section import Expressions, Methods, Section
from lissom.training.config import LogitsLossParams


class Int8TrainingParams(RoundedTrainingParams):
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
    """Matrix products of integers: weights of 1 to 8 bits, unsigned inputs; by calibration, or trained to it."""

    method: Literal["int8"]

    weight_bits: Literal[1, 2, 3, 4, 7, 8] = 7
    """Bits of the weights of matrix products. 7 is exact on every x86 CPU; 8 saturates on those without VNNI. Fewer are
    packed in the file, and computed with as int8."""

    weight_scale: ScaleName = "max"
    """Scale of a row of weights: by its largest weight, by the least squared error, learned in the training (LSQ), or
    by its mean weight (1 bit: the sign; 2 bits: -1, 0 or 1)."""

    stochastic: bool = False
    """Draw the signs of weights of 1 bit at random in the training, each with a probability by its weight."""

    input_bits: Literal[4, 8] = 8
    """Bits of the inputs of matrix products."""

    inputs: Literal["static", "dynamic"] = "static"
    """Range of the inputs: fixed after calibration and training; or that of every call over all its values, so that
    an answer depends on what else is in the batch."""

    observer: Literal["average", "min_max", "percentile", "mse"] = "average"
    """Initial range of the inputs: mean of the batches' ranges, the range of all, without the outermost values, or the
    one with the least squared error."""

    percentile: float = Field(default=99.99, gt=90, le=100)
    """Share of values in percent that the observer `percentile` covers."""

    smooth: float | None = Field(default=None, gt=0, lt=1)
    """How much of the outliers of inputs is moved into the weights (SmoothQuant); null moves nothing."""

    noise: float = Field(default=1, gt=0, le=1)
    """Share of the weights that a training step rounds, drawn anew in every step (Quant-Noise); 1 rounds all."""

    table_bits: Literal[4, 8] = 8
    """Bits of the word table's rows."""

    keep: Expressions = ()
    """Layers that stay in floats besides norms and positions: regular expressions over paths."""

    logits: bool = False
    """Also round the projection that returns logits. One that is tied to the word table has its rounded rows anyway."""

    latency: float | None = Field(default=None, gt=0, lt=1)
    """How long the file may take for a text of dev on one CPU, as a share of the time in floats: those layers stay in
    floats, too, whose rounding changes the answers to the calibration examples most, as many as that allows. Null
    rounds all."""

    observe: float = Field(default=0.67, gt=0, le=1)
    """Share of the training during which activation ranges follow the data; they are frozen afterwards."""

    calibration_examples: int = Field(default=256, ge=1)
    """Labelled training examples, drawn at random, from which the initial activation ranges are observed."""

    seed: int = 0
    """Seed of that draw."""

    training: Int8TrainingParams | None = Int8TrainingParams()
    """Training of the fake-quantised model against the teacher; null quantises by calibration alone."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Int8Training":
        if (self.weight_bits == 1) != (self.weight_scale == "mean") and not (
            self.weight_bits == 2 and self.weight_scale == "mean"
        ):
            raise ValueError(
                f"weight_bits: {self.weight_bits} with weight_scale: {self.weight_scale}: 1 bit needs mean, which is "
                "for 1 and 2 bits; take max, mse or learned with 2 to 8 bits"
            )
        if self.stochastic and self.weight_bits != 1:
            raise ValueError("stochastic: true: signs are drawn, which only weights of 1 bit have; set weight_bits: 1")
        if self.stochastic and self.noise < 1:
            raise ValueError(
                f"stochastic: true draws the signs of all weights, and noise: {self.noise:g} is for some; "
                "set one of them"
            )
        if self.inputs == "dynamic" and (self.smooth is not None or self.weight_scale == "learned"):
            raise ValueError("inputs: dynamic: smoothed or learned inputs have a fixed range; set inputs: static")
        if self.inputs == "dynamic" and self.input_bits != 8:
            raise ValueError(f"inputs: dynamic: the kernel has 8 bits, not {self.input_bits}; set inputs: static")
        if self.training is None and (self.noise < 1 or self.stochastic or self.weight_scale == "learned"):
            raise ValueError("noise, stochastic and weight_scale: learned need a training; set training")
        return self


class GgufTrainingParams(RoundedTrainingParams):
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
    """Quantisation-aware training for a type of GGUF file (export.formats: [gguf])."""

    method: Literal["gguf"]

    type: FileTypeName = "q4_0"
    """Type of the file, one of export.gguf.types."""

    training: GgufTrainingParams | None = GgufTrainingParams()
    """Training of the rounded model against the teacher; null rounds alone."""


QuantizeMethod = Annotated[
    Int8Training | WeightOnly | ProductQuantization | Half | GgufTraining, Field(discriminator="method")
]
"""All methods."""

QuantizeParams = Methods[QuantizeMethod]
