"""Params of quantisation methods that only make weights smaller, while inputs stay floats: groups, codes, halves."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Expressions, Section
from lissom.training.config import RecoveryParams


class RoundedTrainingParams(RecoveryParams):
    """A training with rounded weights."""

    @model_validator(mode="after")
    def _trains_the_weights(self) -> "RoundedTrainingParams":
        if self.lora is not None:
            raise ValueError("lora: weights that are rounded in a training must be trained themselves; set it to null")
        return self


class WeightOnlyTrainingParams(RoundedTrainingParams):
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
    """Bits of the word table's rows, each with a scale; null leaves the table in floats."""

    kernel: Literal["float", "packed"] = "float"
    """In the ONNX file: weights are unpacked when a session starts and multiplied as floats, so that the file is
    smaller and not faster; or multiplied packed (`MatMulNBits`): less memory, fast for single tokens, slow for many."""

    keep: Expressions = ()
    """Layers that stay in floats besides norms and positions: regular expressions over paths."""

    logits: bool = False
    """Also round the projection that returns logits. One that is tied to the word table has its rounded rows anyway."""

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


class ProductTrainingParams(RoundedTrainingParams):
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

    keep: Expressions = ()
    """Layers that stay in floats: regular expressions over paths."""

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

    keep: Expressions = ()
    """Layers that stay in 32 bits: regular expressions over paths."""

    training: None = None
    """There is nothing to train."""
