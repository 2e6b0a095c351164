"""Matrices as sums of Kronecker products (KroneckerBERT, Tahaei et al. 2022, arXiv:2109.06243).

Every matrix starts as the nearest sum of products; much is lost at first, so that a long training against the teacher
follows.
"""

from lissom.errors import InputError
from lissom.factorize.config import KroneckerFactorization
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Kronecker
from lissom.models.sites import ffn_sites, projections_of
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, _: Lesson, params: KroneckerFactorization) -> Recipe:
    """Return the recipe; what does not fit is refused when the edit is applied.

    Raises:
        InputError: there is nothing to factorise.
    """
    shapes: dict[str, tuple[int, int]] = {}
    if params.attention is not None:
        shapes |= dict.fromkeys(projections_of(model.network, "attention"), params.attention)
    if params.ffn is not None:
        for site in ffn_sites(model.network):
            shapes |= dict.fromkeys(site.inputs, params.ffn)
            shapes[site.output] = (params.ffn[1], params.ffn[0])
    if not shapes and params.table is None:
        raise InputError(
            "kronecker: the model has no projections of attentions or feed-forward networks; set factorize.table, or "
            "take another method"
        )
    return Recipe(edits=[Kronecker(shapes=shapes, terms=params.terms, table=params.table)])
