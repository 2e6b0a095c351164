"""Products of smaller matrices in place of a large one: low-rank, Kronecker and tensor-train layers.

All of them are plain parameters that are trained on, exported without the large matrix, and cut no further.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.layers import AskedForItsType


class LowRankLinear(AskedForItsType, nn.Module):
    """Two projections, of the inputs to rank r and from there to the outputs: W = B A (Eckart and Young 1936).

    Args:
        in_features: size of the inputs.
        out_features: size of the outputs.
        rank: r.
        bias: whether the second projection has a bias.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.first = nn.Linear(in_features, rank, bias=False, device="meta")
        self.second = nn.Linear(rank, out_features, bias=bias, device="meta")

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        output: Tensor = self.second(self.first(input))
        return output

    @property
    def bias(self) -> Tensor | None:
        """Return the bias, `[out]`."""
        return self.second.bias

    def matrix(self) -> Tensor:
        """Return the product, `[out, in]`."""
        return self.second.weight @ self.first.weight


class KroneckerLinear(AskedForItsType, nn.Module):
    """A sum of Kronecker products: W = sum over r of A_r x B_r (Tahaei et al. 2022, arXiv:2109.06243, §3).

    Args:
        left: `[terms, m1, n1]`, the A_r.
        right: `[terms, m2, n2]`, the B_r; the outputs are m1 m2, the inputs n1 n2.
        bias: `[m1 m2]`, or None.
    """

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = left.shape[2] * right.shape[2], left.shape[1] * right.shape[1]
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`: with the inputs as a matrix X `[n1, n2]`, the sum of A X B^T.

        Both factors multiply the rows of all tokens at once, since a product per token would copy the factor for each.
        """
        (terms, m1, n1), (_, m2, n2) = self.left.shape, self.right.shape
        grid = input.reshape(-1, n1, n2)
        # The cheaper order: whether n1 rows are mapped by B first, or n2 columns by A.
        if n1 * m2 * (n2 + m1) <= m1 * n2 * (n1 + m2):
            mapped = F.linear(grid, self.right.flatten(0, 1)).reshape(-1, n1, terms, m2)
            joined = F.linear(mapped.permute(0, 3, 2, 1).flatten(-2), self.left.transpose(0, 1).flatten(1))
            output = joined.transpose(1, 2)  # [tokens, m1, m2]
        else:
            mapped = F.linear(grid.transpose(1, 2), self.left.flatten(0, 1)).reshape(-1, n2, terms, m1)
            output = F.linear(mapped.permute(0, 3, 2, 1).flatten(-2), self.right.transpose(0, 1).flatten(1))
        flat = output.reshape(*input.shape[:-1], self.out_features)
        return flat if self.bias is None else flat + self.bias

    def matrix(self) -> Tensor:
        """Return the sum of the Kronecker products, `[out, in]`."""
        return torch.einsum("rab,rcd->acbd", self.left, self.right).reshape(self.out_features, self.in_features)


class KroneckerEmbedding(nn.Module):
    """A table whose rows are Kronecker products of short rows and one shared row (Tahaei et al. 2022, §3.2).

    Args:
        left: `[rows, d / n]`.
        right: `[n]`.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = len(left), left.shape[1] * len(right)
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        return (F.embedding(input, self.left)[..., None] * self.right).flatten(-2)

    def scores(self, hidden: Tensor) -> Tensor:
        """Return the products of vectors `[..., d]` with all rows, `[..., rows]`; the table is never made."""
        grid = hidden.reshape(*hidden.shape[:-1], self.left.shape[1], len(self.right))
        return F.linear(grid @ self.right, self.left)

    def matrix(self) -> Tensor:
        """Return the table, `[rows, d]`."""
        return (self.left[..., None] * self.right).flatten(1)


class TensorTrainLinear(AskedForItsType, nn.Module):
    """A matrix as a train of cores (Oseledets 2011; Novikov et al. 2015, arXiv:1509.06569, §3).

    W[i, j] is the product of the matrices core_k[:, i_k, j_k, :], where i and j are read as numbers with digits i_k of
    base m_k and j_k of base n_k, the first digit the highest.

    Args:
        cores: `[r_(k-1), m_k, n_k, r_k]` each; the outer ranks are 1.
        bias: `[product of m_k]`, or None.
    """

    def __init__(self, cores: Sequence[Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self.in_features = math.prod(core.shape[2] for core in cores)
        self.out_features = math.prod(core.shape[1] for core in cores)
        self.cores = nn.ParameterList(nn.Parameter(core) for core in cores)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`, core by core; the matrix is never made."""
        flat = _mapped(list(self.cores), input)
        return flat if self.bias is None else flat + self.bias

    def matrix(self) -> Tensor:
        """Return the matrix, `[out, in]`."""
        return train_matrix(list(self.cores))


class TensorTrainEmbedding(nn.Module):
    """A table of rows as a train of cores; rows beyond those of the table are never looked up.

    Args:
        cores: `[r_(k-1), m_k, n_k, r_k]` each.
        rows: number of rows, at most the product of the m_k.
    """

    def __init__(self, cores: Sequence[Tensor], rows: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = rows, math.prod(core.shape[2] for core in cores)
        self.cores = nn.ParameterList(nn.Parameter(core) for core in cores)

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        ids, vectors = input.flatten(), input.new_ones(input.numel(), 1, 1).to(self.cores[0].dtype)
        left = math.prod(core.shape[1] for core in self.cores)
        for core in self.cores:
            left //= core.shape[1]
            digit = (ids // left) % core.shape[1]
            slices = F.embedding(digit, core.transpose(0, 1).flatten(1))  # [tokens, rank * columns * following]
            slices = slices.view(-1, core.shape[0], core.shape[2] * core.shape[3])
            vectors = (vectors @ slices).reshape(ids.shape[0], -1, core.shape[3])
        return vectors.reshape(*input.shape, self.embedding_dim)

    def scores(self, hidden: Tensor) -> Tensor:
        """Return the products of vectors `[..., d]` with all rows, `[..., rows]`; the table is never made."""
        return _mapped(list(self.cores), hidden)[..., : self.num_embeddings]

    def matrix(self) -> Tensor:
        """Return the table, `[rows, d]`."""
        return train_matrix(list(self.cores))[: self.num_embeddings]


def _mapped(cores: Sequence[Tensor], input: Tensor) -> Tensor:
    """Return `[..., in]` mapped by the matrix of a train of cores, `[..., out]`."""
    state = input.flatten(0, -2)[:, None, None]  # [tokens, outputs so far, rank, inputs left]
    for core in cores:
        rank, rows, columns, following = core.shape
        tokens, done, _, _ = state.shape
        cut = state.reshape(tokens, done, rank, columns, -1).permute(0, 1, 4, 2, 3).flatten(-2)
        state = (cut @ core.permute(0, 2, 1, 3).reshape(rank * columns, rows * following)).reshape(
            tokens, done, -1, rows, following
        )  # [tokens, done, inputs left, rows, following]
        state = state.permute(0, 1, 3, 4, 2).reshape(tokens, done * rows, following, -1)
    return state.reshape(*input.shape[:-1], -1)


def train_matrix(cores: Sequence[Tensor]) -> Tensor:
    """Return the matrix of a train of cores."""
    result = cores[0].squeeze(0)  # [rows, columns, rank]
    for core in cores[1:]:
        rows, columns, _ = result.shape
        joined = torch.einsum("ijr,rkls->ikjls", result, core)
        result = joined.reshape(rows * core.shape[1], columns * core.shape[2], core.shape[3])
    return result.squeeze(-1)
