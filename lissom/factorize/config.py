"""Params of factorisation: a list of methods."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lissom.section import Methods, Section
from lissom.training.config import RecoveryParams


class WordTableTrainingParams(RecoveryParams):
    """Training of a model whose word table has changed."""

    freeze_word_table: bool = False
    """Freeze the word embeddings; not sensible here, since they have changed."""


class WordTableFactorization(Section):
    """Shrink the word table: other rows (a vocabulary of the domain's own), fewer rows (tokens that the domain uses),
    thinner rows (truncated SVD)."""

    method: Literal["word_table"]

    vocabulary: int | None = Field(default=None, ge=1)
    """Most tokens of a new vocabulary (WordPiece, BPE), learnt from train and transfer texts; null keeps the present
    tokens. Vectors of new tokens begin as means of the old ones that they consist of."""

    min_count: int | None = Field(default=1, ge=1)
    """Keep the tokens that occur at least this often in train and transfer texts; null keeps all."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of the table; null skips the factorisation."""

    training: WordTableTrainingParams | None = WordTableTrainingParams()
    """Training of the factorised model against the teacher; null skips it."""

    @model_validator(mode="after")
    def _does_something(self) -> "WordTableFactorization":
        if self.vocabulary is self.min_count is self.rank is None:
            raise ValueError("vocabulary, min_count and rank are all null: set one, or method: none")
        return self


class FactorTrainingParams(RecoveryParams):
    """Training of a model whose projections are factorised."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""


Target = Literal["attention", "ffn"]


class LowRankFactorization(Section):
    """Projections as products of two thin ones (SVD), the ranks chosen one by one or together."""

    method: Literal["low_rank"]

    targets: tuple[Target, ...] = Field(default=("attention", "ffn"), min_length=1)
    """Projections of attentions, of feed-forward networks, or both."""

    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share that is kept: of the weights of each matrix, of its squared singular values, or of all weights."""

    by: Literal["ratio", "energy", "budget"] = "ratio"
    """What `keep` is a share of: each matrix has that share of its weights; or the smallest rank with that share of its
    squared singular values; or the weights of all matrices together, divided where they lower the error most."""

    weighting: Literal["none", "inputs", "fisher"] = "inputs"
    """The error is that of the weights; of the outputs on some training examples; or of the weights with rows weighted
    by the squared gradients of the loss (Fisher)."""

    calibration_examples: int = Field(default=256, ge=1)
    """Labelled training examples, drawn at random, for the weighting."""

    seed: int = 0
    """Seed of that draw."""

    training: FactorTrainingParams | None = FactorTrainingParams()
    """Training of the factorised model against the teacher; null skips it."""


class ProductTrainingParams(FactorTrainingParams):
    """Training of a model whose matrices, the word table among them, are products of smaller ones."""

    freeze_word_table: bool = False
    """Freeze the word embeddings. They are trained by default, since they are factors, unless `table` is null."""

    @model_validator(mode="after")
    def _has_no_adapters(self) -> "ProductTrainingParams":
        if self.lora is not None:
            raise ValueError(
                "lora: adapters are for plain layers, and the factors would not be trained; set it to null"
            )
        return self


class KroneckerFactorization(Section):
    """Matrices as sums of Kronecker products (KroneckerBERT)."""

    method: Literal["kronecker"]

    attention: tuple[int, int] | None = None
    """Outputs and inputs of the first factor of an attention's projections; null leaves them alone."""

    ffn: tuple[int, int] | None = (2, 8)
    """Outputs and inputs of the first factor of the projections into a feed-forward network, and the reverse out of it;
    null leaves them alone."""

    table: int | None = Field(default=8, ge=2)
    """Length of the row that all words share; null leaves the word table alone."""

    terms: int = Field(default=1, ge=1)
    """Products in a sum, of projections."""

    training: ProductTrainingParams | None = ProductTrainingParams()
    """Training of the factorised model against the teacher; null skips it."""

    @model_validator(mode="after")
    def _does_something(self) -> "KroneckerFactorization":
        if self.attention is None and self.ffn is None and self.table is None:
            raise ValueError("attention, ffn and table are all null: set one, or method: none")
        return self


class TensorTrainFactorization(Section):
    """Matrices as trains of small cores (TT-SVD)."""

    method: Literal["tensor_train"]

    cores: int = Field(default=3, ge=2, le=6)
    """Cores of a train."""

    attention: int | None = Field(default=None, ge=1)
    """Largest inner rank of an attention's projections; null leaves them alone."""

    ffn: int | None = Field(default=None, ge=1)
    """Largest inner rank of the projections of a feed-forward network; null leaves them alone."""

    table: int | None = Field(default=32, ge=1)
    """Largest inner rank of the word table; null leaves it alone."""

    error: float | None = Field(default=None, gt=0, lt=1)
    """Largest relative error of every matrix before the training (Frobenius). Ranks follow from it, and the numbers
    above only tell what is factorised; null takes them."""

    training: ProductTrainingParams | None = ProductTrainingParams()
    """Training of the factorised model against the teacher; null skips it."""

    @model_validator(mode="after")
    def _does_something(self) -> "TensorTrainFactorization":
        if self.attention is None and self.ffn is None and self.table is None:
            raise ValueError("attention, ffn and table are all null: set one, or method: none")
        return self


FactorizeMethod = Annotated[
    WordTableFactorization | LowRankFactorization | KroneckerFactorization | TensorTrainFactorization,
    Field(discriminator="method"),
]
"""All methods."""

FactorizeParams = Methods[FactorizeMethod]
