"""Matrices and tables in 16 bits (Micikevicius et al. 2018, arXiv:1710.03740, §3): half the size, computed in 32."""

from lissom.models.edits import HalfWeights
from lissom.quantize.compact_config import Half
from lissom.training.recipe import Recipe


def plan(params: Half) -> Recipe:
    """Return the recipe."""
    return Recipe(edits=[HalfWeights(type=params.type, keep=params.keep)], facts={"type": params.type})
