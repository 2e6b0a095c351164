"""Matrices as tensor trains (Novikov et al. 2015, arXiv:1509.06569): TT-SVD, then a training against the teacher."""

from lissom.factorize.config import TensorTrainFactorization
from lissom.models.compressed import CompressedModel
from lissom.models.edits import TensorTrain
from lissom.models.edits.low_rank import plain_linear
from lissom.models.edits.tables import plain_table
from lissom.models.edits.tensor_train import columns_of, projection_rows, table_rows
from lissom.models.linear_algebra import train_rank
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
    table = params.table
    if params.error is not None:
        for path in ranks:
            weight = plain_linear(model.network, path, params.method).weight
            rows = projection_rows(weight, params.cores)
            ranks[path] = train_rank(weight, rows, columns_of(weight, params.cores), params.error)
        if table is not None:
            weight = plain_table(model.network, params.method).weight
            rows = table_rows(weight, params.cores)
            table = train_rank(weight, rows, columns_of(weight, params.cores), params.error)
    return Recipe(edits=[TensorTrain(cores=params.cores, ranks=ranks, table=table)])
