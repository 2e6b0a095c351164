"""Params of factorisation: a list of methods."""

from typing import Literal

from pydantic import Field, model_validator

from lissom.section import Methods, Section
from lissom.training.config import RecoveryParams


class WordTableTrainingParams(RecoveryParams):
    """Training of a model whose word table has changed."""

    freeze_word_table: bool = False
    """Freeze the word embeddings; not sensible here, since they have changed."""


class WordTableFactorization(Section):
    """Shrink the word table: fewer rows (tokens that the domain uses), thinner rows (truncated SVD)."""

    method: Literal["word_table"]

    min_count: int | None = Field(default=1, ge=1)
    """Keep the tokens that occur at least this often in train and transfer texts; null keeps all."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of the table; null skips the factorisation."""

    training: WordTableTrainingParams | None = WordTableTrainingParams()
    """Training of the factorised model against the teacher; null skips it."""

    @model_validator(mode="after")
    def _does_something(self) -> "WordTableFactorization":
        if self.min_count is None and self.rank is None:
            raise ValueError("min_count and rank are both null: set one, or method: none")
        return self


FactorizeMethod = WordTableFactorization
"""All methods; with more than one, a union discriminated by `method`."""

FactorizeParams = Methods[FactorizeMethod]
