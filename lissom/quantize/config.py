"""Params of quantisation: a list of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.gguf.config import FileTypeName
from lissom.models.config import ScaleName
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

    keep: tuple[str, ...] = ()
    """Layers that stay in floats besides norms, positions and what returns logits: regular expressions over paths."""

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
        if self.inputs == "dynamic" and (self.smooth is not None or self.weight_scale == "learned"):
            raise ValueError("inputs: dynamic: smoothed or learned inputs have a fixed range; set inputs: static")
        if self.inputs == "dynamic" and self.input_bits != 8:
            raise ValueError(f"inputs: dynamic: the kernel has 8 bits, not {self.input_bits}; set inputs: static")
        if self.training is None and (self.noise < 1 or self.stochastic or self.weight_scale == "learned"):
            raise ValueError("noise, stochastic and weight_scale: learned need a training; set training")
        return self


class WeightOnlyTrainingParams(_RoundedTrainingParams):
    """Training with weights rounded in groups: short, with a small learning rate."""

    epochs: float = Field(default=1, gt=0)
    """Passes over the training set; a fraction stops within one."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""


class WeightOnly(Section):
    """Weights of few bits in groups of inputs; inputs stay floats. By rounding alone, with calibration, or trained."""

    method: Literal["weight_only"]

    bits: Literal[2, 3, 4, 8] = 4
    """Bits of the weights of matrix products."""

    average_bits: float | None = Field(default=None, ge=2, le=8)
    """Bits per weight on average, in place of `bits`: every layer gets 2, 3, 4 or 8, more if the answers to the
    calibration examples change more when it alone is rounded."""

    group: int = Field(default=64, ge=1)
    """Inputs of a row that share a scale and a zero point; of a layer whose inputs it does not divide, the largest
    divisor below it."""

    rounding: Literal["nearest", "mse", "gptq", "awq"] = "mse"
    """To the nearest point; on the grid of least squared error; making up for errors by the inputs (GPTQ); or more
    finely for inputs with large values (AWQ)."""

    damping: float = Field(default=0.01, gt=0)
    """GPTQ: what is added to the diagonal of the inputs' second moments, as a share of its mean."""

    correction: int | None = Field(default=None, ge=1)
    """Rank of a product of two thin matrices in float16 that is added to every rounded matrix, and makes up for most of
    the rounding (LoRC); null adds none."""

    table_bits: Literal[4, 8] | None = 8
    """Bits of the word table's rows, each with a scale; with a training they are rounded after it. null leaves the
    table in floats."""

    kernel: Literal["float", "packed"] = "float"
    """In the ONNX file: weights are unpacked when a session starts and multiplied as floats, so that the file is
    smaller and not faster; or multiplied packed (`MatMulNBits`): less memory, fast for single tokens, slow for many."""

    keep: tuple[str, ...] = ()
    """Layers that stay in floats besides norms, positions and what returns logits: regular expressions over paths."""

    calibration_examples: int = Field(default=128, ge=1)
    """Labelled training examples, drawn at random, on which GPTQ and AWQ look at the inputs of layers."""

    seed: int = 0
    """Seed of that draw."""

    training: WeightOnlyTrainingParams | None = None
    """Training of the rounded model against the teacher; null rounds alone."""

    @model_validator(mode="after")
    def _trains_what_it_rounds(self) -> "WeightOnly":
        if self.training is not None and self.rounding in ("gptq", "awq"):
            raise ValueError(
                f"rounding: {self.rounding} with a training: it is made for rounding without one; set rounding: mse, "
                "or training: null"
            )
        if self.training is not None and self.correction is not None:
            raise ValueError("correction with a training: it is made for rounding without one; set one of both to null")
        return self


class ProductTrainingParams(_RoundedTrainingParams):
    """Training of the codebooks and of what is still exact, after every part that has been quantised."""

    epochs: float = Field(default=1, gt=0)
    """Passes over the training set, of every training; a fraction stops within one."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of AdamW."""

    freeze_word_table: bool = False
    """Freeze the word embeddings, and their codebook."""


class ProductQuantization(Section):
    """Every block of weights of a row becomes one of a few vectors, found by K-means (iPQ): feed-forward networks
    first, then the word table, then attentions, with a training after each."""

    method: Literal["product"]

    codes: int = Field(default=256, ge=2, le=256)
    """Vectors in the codebook of a matrix; a code is a byte."""

    ffn: int | None = Field(default=8, ge=1)
    """Weights in a block of a feed-forward network; null leaves its matrices alone."""

    attention: int | None = Field(default=4, ge=1)
    """Weights in a block of an attention's projection; null leaves them alone."""

    table: int | None = Field(default=8, ge=1)
    """Weights in a block of the word table; null leaves it alone."""

    iterations: int = Field(default=15, ge=1)
    """Iterations of K-means."""

    noise: float | None = Field(default=None, gt=0, lt=1)
    """Share of the blocks that are zero in every step of a training before all others (Quant-Noise); null skips it."""

    seed: int = 0
    """Seed of the vectors that K-means starts from."""

    training: ProductTrainingParams | None = ProductTrainingParams()
    """Training against the teacher after every part; null quantises all parts without one."""

    @model_validator(mode="after")
    def _does_something(self) -> "ProductQuantization":
        if self.ffn is self.attention is self.table is None:
            raise ValueError("ffn, attention and table are all null: set one, or method: none")
        if self.training is None and self.noise is not None:
            raise ValueError("noise needs a training; set training, or noise: null")
        return self


class Half(Section):
    """Matrices and tables in 16 bits: half the size on disk; products are computed in 32 bits."""

    method: Literal["half"]

    type: Literal["float16", "bfloat16"] = "float16"
    """float16 is 8 times finer; bfloat16 has the range of float32."""

    training: None = None
    """There is nothing to train."""


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


QuantizeMethod = Annotated[
    Int8Training | WeightOnly | ProductQuantization | Half | GgufTraining, Field(discriminator="method")
]
"""All methods."""

QuantizeParams = Methods[QuantizeMethod]
