"""GPTQ: rounding that makes up for its own errors (Frantar et al. 2023, arXiv:2210.17323, algorithm 1).

Columns are rounded one after the other, and the error of each is spread over those that are still floats by the inverse
of H = 2 X X^T, so that the layer's output changes least. Columns of inputs with large values come first, while there is
most left to make up with; scales are therefore those of the groups of the exact weights.
"""

import torch
from torch import Tensor

from lissom.models.grouped import GroupGrid

_COLUMNS = 128


def gptq(weight: Tensor, gram: Tensor, grid: GroupGrid, damping: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """Return integers `[out, in]`, scales and zero points `[out, groups]`, all as floats.

    Args:
        weight: `[out, in]`.
        gram: mean of x x^T over inputs x, `[in, in]`.
        grid: the grid.
        damping: what is added to the diagonal of the Gram matrix, as a share of its mean.
    """
    order = gram.diagonal().argsort(descending=True)
    size = grid.size(weight.shape[1])
    groups = weight.detach().double().reshape(len(weight), -1, size)
    scales, zeros = grid.parameters(groups)
    work, spread = weight.detach().double()[:, order], _spread(gram.double()[order][:, order], damping)
    integers = torch.zeros_like(work)
    for start in range(0, work.shape[1], _COLUMNS):
        end = min(start + _COLUMNS, work.shape[1])
        errors = work.new_zeros(len(work), end - start)
        for column in range(start, end):
            group = int(order[column]) // size
            q = grid.integers(work[:, column : column + 1], scales[:, group], zeros[:, group])
            rounded = grid.floats(q, scales[:, group], zeros[:, group])
            integers[:, column] = q[:, 0]
            error = (work[:, column] - rounded[:, 0]) / spread[column, column]
            work[:, column + 1 : end] -= error[:, None] * spread[column, column + 1 : end]
            errors[:, column - start] = error
        work[:, end:] -= errors @ spread[start:end, end:]
    return integers[:, order.argsort()], scales, zeros


def _spread(gram: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the damped inverse, whose rows spread the errors of columns, `[in, in]`."""
    damped = 2 * gram.clone()
    dead = damped.diagonal() == 0
    damped.diagonal()[dead] = 1
    damped.diagonal().add_(damping * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
