"""Quantisation: every method behind one function."""

from lissom.models.compressed import CompressedModel
from lissom.quantize import int8
from lissom.quantize.config import Int8Training, QuantizeMethod
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: QuantizeMethod) -> Recipe:
    """Return the recipe of a method; the model is not changed."""
    match params:
        case Int8Training():
            return int8.plan(model, lesson, params)
