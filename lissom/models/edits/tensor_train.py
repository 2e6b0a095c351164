"""Projections and the word table as tensor trains."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.low_rank import plain_linear
from lissom.models.edits.tables import plain_table, replace_table
from lissom.models.factors import TensorTrainEmbedding, TensorTrainLinear
from lissom.models.linear_algebra import digits, rows_for, tensor_train
from lissom.models.sites import replace_module


class TensorTrain(StructureEdit):
    """Replace matrices by trains of small cores (Novikov et al. 2015, arXiv:1509.06569)."""

    kind: Literal["tensor_train"] = "tensor_train"
    cores: int = Field(default=3, ge=2, le=6)
    """Cores of a train."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """Largest inner rank of every projection, by path."""
    table: int | None = Field(default=None, ge=1)
    """Largest inner rank of the word table; null leaves it alone."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: a rank saves nothing.
        """
        for path, rank in self.ranks.items():
            layer = plain_linear(network, path, self.kind)
            cores = self._cores(path, layer.weight, projection_rows(layer.weight, self.cores), rank)
            bias = None if layer.bias is None else layer.bias.detach()
            replace_module(network, path, TensorTrainLinear(cores, bias).train(layer.training))
        if self.table is not None:
            table = plain_table(network, self.kind)
            cores = self._cores("the word table", table.weight, table_rows(table.weight, self.cores), self.table)
            replace_table(network, TensorTrainEmbedding(cores, len(table.weight)).train(table.training))

    def _cores(self, path: str, weight: Tensor, rows: Sequence[int], rank: int) -> list[Tensor]:
        columns = columns_of(weight, self.cores)
        shapes = core_shapes(rows, columns, rank)
        count = sum(math.prod(shape) for shape in shapes)
        if count >= weight.numel():
            raise InputError(
                f"tensor_train: rank {rank} saves nothing on {path}, {len(weight)} x {weight.shape[1]}: {count:,} "
                f"weights instead of {weight.numel():,}; take a smaller rank, or a larger error"
            )
        if weight.is_meta:
            return [weight.new_empty(shape) for shape in shapes]
        return tensor_train(weight, rows, columns, rank)

    def describe(self) -> str:
        """Return the edit in a few words."""
        parts = [f"{len(self.ranks)} projections"] if self.ranks else []
        parts += [f"the word table at rank {self.table}"] if self.table else []
        return f"{' and '.join(parts)} as trains of {self.cores} cores"


def projection_rows(weight: Tensor, cores: int) -> list[int]:
    """Return the factors of a projection's outputs, one for each core."""
    return digits(len(weight), cores)


def table_rows(weight: Tensor, cores: int) -> list[int]:
    """Return numbers whose product is at least the number of words, one for each core."""
    return rows_for(len(weight), cores)


def columns_of(weight: Tensor, cores: int) -> list[int]:
    """Return the factors of a matrix's columns, one for each core."""
    return digits(weight.shape[1], cores)[::-1]


def core_shapes(rows: Sequence[int], columns: Sequence[int], rank: int) -> list[tuple[int, int, int, int]]:
    """Return the shapes of the cores of a train whose inner ranks are at most `rank`, and no larger than needed."""
    shapes, before = [], 1
    for place, (m, n) in enumerate(zip(rows, columns, strict=True)):
        rest = math.prod(rows[place + 1 :]) * math.prod(columns[place + 1 :])
        after = 1 if place == len(rows) - 1 else min(rank, before * m * n, rest)
        shapes.append((before, m, n, after))
        before = after
    return shapes
