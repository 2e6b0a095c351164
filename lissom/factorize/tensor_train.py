"""Matrices as tensor trains (Novikov et al. 2015, arXiv:1509.06569): TT-SVD, then a training against the teacher."""

from lissom.factorize.config import TensorTrainFactorization
from lissom.models.compressed import CompressedModel
from lissom.models.edits import TensorTrain
from lissom.models.sites import projections_of
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, _: Lesson, params: TensorTrainFactorization) -> Recipe:
    """Return the recipe; a rank that saves nothing is refused when the edit is applied."""
    ranks: dict[str, int] = {}
    if params.attention is not None:
        ranks |= dict.fromkeys(projections_of(model.network, "attention"), params.attention)
    if params.ffn is not None:
        ranks |= dict.fromkeys(projections_of(model.network, "ffn"), params.ffn)
    return Recipe(edits=[TensorTrain(cores=params.cores, ranks=ranks, table=params.table)])
