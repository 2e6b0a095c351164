"""Factorise the word table by truncated SVD: V x d becomes V x r times r x d; a tied head uses the same factors."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.edit import StructureEdit
from lissom.models.families import family_of
from lissom.models.layers import matrix_of
from lissom.models.sites import replace_module, tied_head


class FactorizedEmbedding(nn.Module):
    """An embedding of rank r: a table `[V, r]` and a projection to the hidden size, `[d, r]`."""

    def __init__(self, table: nn.Embedding, projection: nn.Linear) -> None:
        super().__init__()
        self.table = table
        self.projection = projection

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids `[batch, n]` to vectors `[batch, n, d]`."""
        vectors: Tensor = self.projection(self.table(input_ids))
        return vectors

    def matrix(self) -> Tensor:
        """Return the product of the factors, `[V, d]`."""
        return matrix_of(self.table) @ matrix_of(self.projection).T


class FactorizedHead(nn.Module):
    """The output projection that is tied to a factorised table: it applies the transposed factors."""

    def __init__(self, embedding: FactorizedEmbedding, bias: Tensor | None) -> None:
        super().__init__()
        self.table, self.projection = embedding.table, embedding.projection
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states `[..., d]` to logits `[..., V]`."""
        return F.linear(F.linear(hidden, matrix_of(self.projection).T), matrix_of(self.table), self.bias)


class FactorizeWordTable(StructureEdit):
    """Factorise the word table at a rank."""

    kind: Literal["factorize_word_table"] = "factorize_word_table"
    rank: int = Field(ge=1)

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; each factor of the truncated SVD gets the square root of the singular values.

        Raises:
            InputError: the family's table cannot be edited or is factorised already, or the rank saves nothing.
        """
        check_technique(network, "word_table", self.kind)
        path = family_of(network).word_table
        table = network.get_submodule(path)
        if not isinstance(table, nn.Embedding):
            raise InputError(f"{path} is factorised already")
        rows, width = table.weight.shape
        if self.rank * (rows + width) >= rows * width:
            largest = (rows * width - 1) // (rows + width)
            raise InputError(
                f"factorize_word_table: rank {self.rank} saves nothing on {rows} x {width}; largest: {largest}"
            )
        head = tied_head(network)
        left, right = truncated_svd(table.weight.detach(), self.rank)
        thin = nn.Embedding(rows, self.rank, padding_idx=table.padding_idx, device="meta")
        projection = nn.Linear(self.rank, width, bias=False, device="meta")
        thin.weight, projection.weight = nn.Parameter(left), nn.Parameter(right)
        factorized = FactorizedEmbedding(thin, projection)
        replace_module(network, path, factorized)
        if head is not None:
            replace_module(network, head, FactorizedHead(factorized, network.get_submodule(head).bias))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"word table at rank {self.rank}"


def truncated_svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return `[rows, r]` and `[columns, r]` whose product `left @ right.T` is the best rank-r approximation.

    Computed from the eigenvectors of the Gram matrix `[columns, columns]` in float64, which is exact to float32 and
    cheaper than a full SVD of a table with many rows. Directions beyond the rank of the matrix are 0 in `left`; in
    `right` they are as long as the shortest of the others, so that a training can use them.

    Args:
        weight: the matrix, `[rows, columns]`.
        rank: r, at most the number of columns.
    """
    if weight.is_meta:
        return weight.new_empty(weight.shape[0], rank), weight.new_empty(weight.shape[1], rank)
    assert rank <= weight.shape[1], "there are no more directions than columns"
    matrix = weight.double()
    eigenvalues, vectors = torch.linalg.eigh(matrix.T @ matrix)
    basis = vectors.flip(1)[:, :rank]
    squares = eigenvalues.flip(0)[:rank]
    above_noise = squares > max(weight.shape) * torch.finfo(torch.float64).eps * squares[0]
    singular = torch.where(above_noise, squares, squares[above_noise].min() if bool(above_noise.any()) else 1.0).sqrt()
    left = torch.where(above_noise, (matrix @ basis) / singular.sqrt(), 0.0)
    right = basis * singular.sqrt()
    return left.to(weight.dtype).contiguous(), right.to(weight.dtype).contiguous()


def rows_of(network: PreTrainedModel, path: str) -> str:
    """Return the path of the Embedding that holds the word table's rows, factorised or not."""
    return f"{path}.table" if isinstance(network.get_submodule(path), FactorizedEmbedding) else path
