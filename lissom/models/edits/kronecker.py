"""Projections and the word table as sums of Kronecker products."""

from typing import Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.low_rank import plain_linear
from lissom.models.edits.tables import plain_table, replace_table
from lissom.models.factors import KroneckerEmbedding, KroneckerLinear
from lissom.models.linear_algebra import kronecker
from lissom.models.sites import replace_module

Shape = tuple[int, int]


class Kronecker(StructureEdit):
    """Replace matrices by the nearest sums of Kronecker products A x B (Tahaei et al. 2022, arXiv:2109.06243)."""

    kind: Literal["kronecker"] = "kronecker"
    shapes: dict[str, Shape] = Field(default_factory=dict)
    """Outputs and inputs of A of every projection, by path."""
    terms: int = Field(default=1, ge=1)
    """Products in a sum, of projections."""
    table: int | None = Field(default=None, ge=2)
    """Length of the row that all words share; null leaves the word table alone."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: a shape does not divide its matrix, or saves nothing.
        """
        for path, shape in self.shapes.items():
            layer = plain_linear(network, path, self.kind)
            rows, columns = layer.weight.shape
            _check(path, shape, self.terms, rows, columns)
            if layer.weight.is_meta:
                left = layer.weight.new_empty(self.terms, *shape)
                right = layer.weight.new_empty(self.terms, rows // shape[0], columns // shape[1])
            else:
                left, right = kronecker(layer.weight, shape, self.terms)
            bias = None if layer.bias is None else layer.bias.detach()
            replace_module(network, path, KroneckerLinear(left, right, bias).train(layer.training))
        if self.table is not None:
            table = plain_table(network, self.kind)
            rows, columns = table.weight.shape
            _check("the word table", (rows, columns // self.table), 1, rows, columns)
            replace_table(network, _embedding(table, self.table))

    def describe(self) -> str:
        """Return the edit in a few words."""
        parts = [f"{len(self.shapes)} projections as {self.terms} Kronecker products each"] if self.shapes else []
        parts += [f"rows of the word table as products with one row of {self.table}"] if self.table else []
        return ", ".join(parts)


def _embedding(table: nn.Embedding, length: int) -> KroneckerEmbedding:
    rows, columns = table.weight.shape
    if table.weight.is_meta:
        return KroneckerEmbedding(table.weight.new_empty(rows, columns // length), table.weight.new_empty(length))
    left, right = kronecker(table.weight, (rows, columns // length), 1)
    return KroneckerEmbedding(left[0], right[0, 0]).train(table.training)


def _check(path: str, shape: Shape, terms: int, rows: int, columns: int) -> None:
    if rows % shape[0] or columns % shape[1]:
        raise InputError(
            f"kronecker: a factor of {shape[0]} x {shape[1]} does not divide {path}, {rows} x {columns}; take divisors"
        )
    count = terms * (shape[0] * shape[1] + rows * columns // (shape[0] * shape[1]))
    if count >= rows * columns:
        raise InputError(
            f"kronecker: {terms} products with {shape[0]} x {shape[1]} save nothing on {path}: {count:,} weights "
            f"instead of {rows * columns:,}; take fewer terms or another shape"
        )
