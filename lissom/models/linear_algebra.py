"""The nearest products: truncated SVD, weighted or not; sums of Kronecker products; tensor trains."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_DAMPING = 1e-6


def low_rank(
    weight: Tensor, rank: int, *, rows: Tensor | None = None, gram: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return B `[out, r]` and A `[r, in]` whose product is the nearest to a weight `[out, in]`.

    Plainly in the Frobenius norm (Eckart and Young 1936). With `rows`, D `[out]`, in the norm of D (W - BA)
    (Fisher-weighted SVD, Hsu et al. 2022, arXiv:2207.00112). With `gram`, the mean of x x^T `[in, in]`, in the mean
    squared error of the outputs (Chen et al. 2021, arXiv:2101.09650): the SVD of W S with S S^T = gram.
    """
    work = weight.detach().double()
    if rows is not None:
        scale = rows.double().clamp_min(float(rows.max()) * _DAMPING)[:, None] if bool(rows.any()) else 1.0
        left, values, right = _svd(work * scale, rank)
        left = left / scale
    elif gram is not None:
        root = square_root(gram)
        left, values, right = _svd(work @ root, rank)
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    else:
        left, values, right = _svd(work, rank)
    root_values = values.sqrt()
    first, second = root_values[:, None] * right, left * root_values
    return second.to(weight.dtype).contiguous(), first.to(weight.dtype).contiguous()


def square_root(gram: Tensor) -> Tensor:
    """Return S `[in, in]`, lower triangular, with S S^T = gram + a little on the diagonal; I for a gram of zeros."""
    work = gram.double()
    little = _DAMPING * work.diagonal().mean() if bool(work.any()) else 1.0
    damped = work + torch.eye(len(work), dtype=work.dtype, device=work.device) * little
    root: Tensor = torch.linalg.cholesky(damped)
    return root


def singular_values(weight: Tensor, gram: Tensor | None = None) -> Tensor:
    """Return the singular values of a weight, or of W S, in descending order."""
    work = weight.detach().double()
    values: Tensor = torch.linalg.svdvals(work if gram is None else work @ square_root(gram))
    return values


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank]


def kronecker(weight: Tensor, shape: tuple[int, int], terms: int) -> tuple[Tensor, Tensor]:
    """Return A `[terms, m1, n1]` and B `[terms, m2, n2]` whose sum of Kronecker products is nearest to a weight.

    The SVD of the weight with its blocks as rows (Van Loan and Pitsianis 1993).

    Args:
        weight: `[m1 m2, n1 n2]`.
        shape: (m1, n1).
        terms: number of products.
    """
    (m1, n1), (m2, n2) = shape, (weight.shape[0] // shape[0], weight.shape[1] // shape[1])
    blocks = weight.detach().double().reshape(m1, m2, n1, n2).permute(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)
    left, values, right = _svd(blocks, terms)
    root = values.sqrt()
    a, b = (left * root).T.reshape(-1, m1, n1), (root[:, None] * right).reshape(-1, m2, n2)
    return a.to(weight.dtype).contiguous(), b.to(weight.dtype).contiguous()


def tensor_train(weight: Tensor, rows: Sequence[int], columns: Sequence[int], rank: int) -> list[Tensor]:
    """Return the cores `[r, m_k, n_k, r']` of a weight by TT-SVD (Oseledets 2011, algorithm 1).

    Args:
        weight: `[out, in]`; out may be less than the product of the m_k, the rest are zeros.
        rows: the m_k.
        columns: the n_k, whose product is the number of columns.
        rank: largest inner rank; the error is at most the root of the sum of the squared errors of all steps.
    """
    cores, before, rest = [], 1, _paired(weight, rows, columns).reshape(1, -1)
    for m, n in list(zip(rows, columns, strict=True))[:-1]:
        left, values, right = _svd(rest.reshape(before * m * n, -1), rank)
        cores.append(left.reshape(before, m, n, -1).to(weight.dtype).contiguous())
        before, rest = left.shape[1], values[:, None] * right
    cores.append(rest.reshape(before, rows[-1], columns[-1], 1).to(weight.dtype).contiguous())
    return cores


def train_rank(weight: Tensor, rows: Sequence[int], columns: Sequence[int], error: float) -> int:
    """Return the smallest rank for which `tensor_train` is known to stay within a relative error (Frobenius).

    The squared error is at most the sum, over the places where a train is divided, of the squared singular values
    beyond the rank (Oseledets 2011, theorem 2.2).

    Args:
        weight: `[out, in]`, as of `tensor_train`.
        rows: the m_k.
        columns: the n_k.
        error: largest norm of the difference over the norm of the weight.
    """
    tensor = _paired(weight, rows, columns)
    beyond = torch.zeros(tensor.numel(), dtype=tensor.dtype)  # squared singular values, by how many are larger
    for place in range(1, len(rows)):
        matrix = tensor.reshape(math.prod(rows[:place]) * math.prod(columns[:place]), -1)
        gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        squares = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).cpu()
        beyond[: len(squares)] += squares
    lost = beyond.flip(0).cumsum(0).flip(0)  # lost[r]: the bound of the squared error at rank r
    allowed = error**2 * float(tensor.square().sum())
    return max(1, int((lost > allowed).sum()))


def _paired(weight: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return a weight in float64 as `[m_1, n_1, m_2, n_2, ...]`, rows of zeros added."""
    work = torch.zeros(math.prod(rows), weight.shape[1], dtype=torch.float64, device=weight.device)
    work[: len(weight)] = weight.detach().double()
    count = len(rows)
    order = [axis for pair in zip(range(count), range(count, 2 * count), strict=True) for axis in pair]
    return work.reshape(*rows, *columns).permute(order)


def digits(number: int, count: int) -> list[int]:
    """Return `count` factors of a number that are as equal as its prime factors allow, in ascending order."""
    factors = [1] * count
    for prime in reversed(_primes(number)):
        factors[factors.index(min(factors))] *= prime
    return sorted(factors)


def _primes(number: int) -> list[int]:
    primes, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            primes.append(divisor)
            number //= divisor
        divisor += 1
    return [*primes, number] if number > 1 else primes


def rows_for(number: int, count: int) -> list[int]:
    """Return `count` numbers as equal as can be whose product is at least `number`."""
    result, left = [], number
    for place in range(count, 0, -1):
        size = math.ceil(left ** (1 / place) - 1e-9)
        result.append(size)
        left = math.ceil(left / size)
    return result
