"""GPTQ: rounding that makes up for its own errors (Frantar et al. 2023, arXiv:2210.17323, algorithm 1).

Columns are rounded one after the other, and the error of each is spread over those that are still floats by the inverse
of H = 2 X X^T, so that the layer's output changes least. Scales are those of the weights when their group is reached.
"""

import torch
from torch import Tensor

from lissom.models.grouped import GroupGrid

_COLUMNS = 128


def gptq(
    weight: Tensor, gram: Tensor, grid: GroupGrid, damping: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return integers `[out, in]`, scales and zero points `[out, groups]`, all as floats.

    Args:
        weight: `[out, in]`.
        gram: mean of x x^T over inputs x, `[in, in]`.
        grid: the grid.
        damping: what is added to the diagonal of the Gram matrix, as a share of its mean.
    """
    work, size = weight.detach().double().clone(), grid.size(weight.shape[1])
    spread = _spread(gram.double(), damping)
    work[:, gram.diagonal() == 0] = 0  # inputs that never occur
    integers = torch.zeros_like(work)
    scales, zeros = (work.new_zeros(len(work), work.shape[1] // size) for _ in range(2))
    for start in range(0, work.shape[1], _COLUMNS):
        end = min(start + _COLUMNS, work.shape[1])
        errors = work.new_zeros(len(work), end - start)
        for column in range(start, end):
            group = column // size
            if column % size == 0:
                if column + size > end:  # the errors of this pass have not reached the rest of the group
                    later = work[:, end : column + size] - errors[:, : column - start] @ spread[start:column, end : column + size]
                    members = torch.cat([work[:, column:end], later], dim=1)
                else:
                    members = work[:, column : column + size]
                scales[:, group], zeros[:, group] = grid.parameters(members)
            q = grid.integers(work[:, column : column + 1], scales[:, group], zeros[:, group])
            rounded = grid.floats(q, scales[:, group], zeros[:, group])
            integers[:, column] = q[:, 0]
            error = (work[:, column] - rounded[:, 0]) / spread[column, column]
            work[:, column + 1 : end] -= error[:, None] * spread[column, column + 1 : end]
            errors[:, column - start] = error
        work[:, end:] -= errors @ spread[start:end, end:]
    return integers, scales, zeros


def _spread(gram: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the damped inverse, whose rows spread the errors of columns, `[in, in]`."""
    damped = 2 * gram.clone()
    dead = damped.diagonal() == 0
    damped.diagonal()[dead] = 1
    damped.diagonal().add_(damping * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
