"""Factorisation: every method behind one function."""

from lissom.factorize import kronecker, low_rank, tensor_train, word_table
from lissom.factorize.config import (
    FactorizeMethod,
    KroneckerFactorization,
    LowRankFactorization,
    TensorTrainFactorization,
    WordTableFactorization,
)
from lissom.models.compressed import CompressedModel
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: FactorizeMethod) -> Recipe:
    """Return the recipe of a method; the model is not changed."""
    match params:
        case WordTableFactorization():
            return word_table.plan(model, lesson, params)
        case LowRankFactorization():
            return low_rank.plan(model, lesson, params)
        case KroneckerFactorization():
            return kronecker.plan(model, lesson, params)
        case TensorTrainFactorization():
            return tensor_train.plan(model, lesson, params)
