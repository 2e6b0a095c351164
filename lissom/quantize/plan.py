"""Quantisation: every method behind one function."""

from lissom.models.compressed import CompressedModel
from lissom.quantize import half, int8, product, weight_only
from lissom.quantize.compact_config import Half, ProductQuantization, WeightOnly
from lissom.quantize.config import GgufTraining, Int8Training, QuantizeMethod
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: QuantizeMethod) -> Recipe:
    """Return the recipe of a method; the model is not changed."""
    match params:
        case Int8Training():
            return int8.plan(model, lesson, params)
        case WeightOnly():
            return weight_only.plan(model, lesson, params)
        case ProductQuantization():
            return product.plan(model, lesson, params)
        case Half():
            return half.plan(model, params)
        case GgufTraining():
            from lissom.quantize import gguf_grid  # needs a package that only this method needs

            return gguf_grid.plan(model, lesson, params)
