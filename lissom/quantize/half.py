"""Matrices and tables in 16 bits (Micikevicius et al. 2018, arXiv:1710.03740, §3): half the size, computed in 32."""

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import HalfWeights
from lissom.quantize.compact_config import Half
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, params: Half) -> Recipe:
    """Return the recipe.

    Raises:
        InputError: a pattern of `keep` matches nothing, or other methods have stored all layers in fewer bits already.
    """
    edit = HalfWeights(type=params.type, keep=params.keep)
    if not edit.paths(model.network):
        raise InputError("half: there are no weights in 32 bits left; leave one of the methods out")
    return Recipe(edits=[edit], facts={"type": params.type})
