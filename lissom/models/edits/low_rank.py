"""Projections as products of two thin matrices."""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.factors import LowRankLinear
from lissom.models.linear_algebra import low_rank
from lissom.models.sites import replace_module


class LowRank(StructureEdit):
    """Replace projections by two thinner ones, each with the root of the singular values (truncated SVD)."""

    kind: Literal["low_rank"] = "low_rank"
    ranks: dict[str, int] = Field(min_length=1)
    """Rank of every projection, by path."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: a path is no plain projection, or its rank saves nothing.
        """
        for path, rank in self.ranks.items():
            layer = plain_linear(network, path, self.kind)
            check_rank(self.kind, path, rank, layer.out_features, layer.in_features)
            factors = LowRankLinear(layer.in_features, layer.out_features, rank, bias=layer.bias is not None)
            if layer.weight.is_meta:
                second, first = (
                    layer.weight.new_empty(layer.out_features, rank),
                    layer.weight.new_empty(rank, layer.in_features),
                )
            else:
                second, first = low_rank(layer.weight, rank)
            fill(factors, second, first, layer.bias)
            replace_module(network, path, factors.train(layer.training))

    def describe(self) -> str:
        """Return the edit in a few words."""
        ranks = sorted(self.ranks.values())
        spread = f"rank {ranks[0]}" if ranks[0] == ranks[-1] else f"ranks {ranks[0]} to {ranks[-1]}"
        return f"{len(ranks)} projections at {spread}"


def fill(factors: LowRankLinear, second: Tensor, first: Tensor, bias: Tensor | None) -> None:
    """Set the factors B `[out, r]` and A `[r, in]`, and the bias."""
    factors.first.weight, factors.second.weight = nn.Parameter(first), nn.Parameter(second)
    if bias is not None:
        factors.second.bias = nn.Parameter(bias.detach())


def largest_rank(rows: int, columns: int) -> int:
    """Return the largest rank at which two factors have fewer weights than the matrix; 0 if none has."""
    return (rows * columns - 1) // (rows + columns)


def check_rank(subject: str, path: str, rank: int, rows: int, columns: int) -> None:
    """Raise `InputError` if factors of a rank are no smaller than the matrix."""
    if not 1 <= rank <= largest_rank(rows, columns):
        raise InputError(
            f"{subject}: rank {rank} saves nothing on {path}, {rows} x {columns}: {rank * (rows + columns):,} weights "
            f"instead of {rows * columns:,}; the largest rank that does is {largest_rank(rows, columns)}"
        )


def plain_linear(network: PreTrainedModel, path: str, subject: str) -> nn.Linear:
    """Return the plain projection at a path.

    Raises:
        InputError: there is none, or it is factorised or quantised already.
    """
    try:
        layer = network.get_submodule(path)
    except AttributeError:
        raise InputError(f"{subject}: there is no layer {path}") from None
    if type(layer) is not nn.Linear:
        raise InputError(
            f"{subject}: {path} is a {type(layer).__name__}, not a plain projection; factorise it once, and first"
        )
    return layer
