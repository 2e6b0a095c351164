"""Matrices as codes of blocks."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.codebooks import CodebookEmbedding, CodebookLinear, encode
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.quantizers import kept_layers
from lissom.models.edits.tables import replace_table, share_factors
from lissom.models.edits.word_table import rows_of
from lissom.models.families import family_of
from lissom.models.layers import Convertible
from lissom.models.sites import projections_of, replace_module

Part = Literal["ffn", "table", "attention"]
PARTS: tuple[Part, ...] = ("ffn", "table", "attention")
"""In the order in which they are quantised (Fan et al. 2020, arXiv:2004.07320, §7.3)."""


class ProductQuantize(StructureEdit):
    """Store the matrices of feed-forward networks, attentions and the word table as codes of blocks.

    Matrices whose codebook is trained keep their codes; others are encoded by K-means.
    """

    kind: Literal["product_quantize"] = "product_quantize"
    codes: int = Field(default=256, ge=2, le=256)
    """Centroids of a codebook; a code is a byte."""
    ffn: int | None = Field(default=8, ge=1)
    attention: int | None = Field(default=4, ge=1)
    table: int | None = Field(default=8, ge=1)
    iterations: int = Field(default=15, ge=1)
    seed: int = 0
    keep: tuple[str, ...] = Field(default=(), max_length=1000)
    """Regular expressions over module paths: what matches one stays in floats."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: a block does not divide a row, or a pattern of `keep` matches nothing.
        """
        for path, block in self.blocks(network).items():
            layer = network.get_submodule(path)
            replace_matrix(network, path, self._stored(path, layer, block).train(layer.training))
        share_factors(network)

    def blocks(self, network: PreTrainedModel) -> dict[str, int]:
        """Return the size of the blocks of every matrix, by path, in the order in which they are quantised."""
        return {
            path: block for part in ("ffn", "table", "attention") for path, block in self.part(network, part).items()
        }

    def part(self, network: PreTrainedModel, part: Part) -> dict[str, int]:
        """Return the size of the blocks of the matrices of one part."""
        block = getattr(self, part)
        if block is None:
            return {}
        kept = kept_layers(network, self.keep)
        if part == "table":
            path = rows_of(network, family_of(network).word_table)
            table = network.get_submodule(path)
            if isinstance(table, nn.Embedding) and type(table) is not nn.Embedding:
                return {}  # it scales what it returns, and stays in floats
            return {} if path in kept else {path: block}
        return {path: block for path in projections_of(network, part) if path not in kept}

    def _stored(self, path: str, layer: nn.Module, block: int) -> nn.Module:
        if isinstance(layer, Convertible):
            return layer.converted()
        if type(layer) not in (nn.Linear, nn.Embedding):
            raise InputError(f"{path} is a {type(layer).__name__}, which cannot be stored as codes")
        weight, bias = layer.weight, getattr(layer, "bias", None)
        assert isinstance(weight, Tensor)
        check_block(path, weight.shape[1], block)
        if weight.is_meta:
            codebook = torch.empty(self.codes, block, device="meta")
            codes = torch.empty(len(weight), weight.shape[1] // block, dtype=torch.uint8, device="meta")
        else:
            codebook, codes = encode(weight, block, self.codes, self.iterations, self.seed)
        return (
            CodebookLinear(codes, codebook, bias)
            if isinstance(layer, nn.Linear)
            else CodebookEmbedding(codes, codebook)
        )

    def describe(self) -> str:
        """Return the edit in a few words."""
        parts = {"FFN": self.ffn, "attention": self.attention, "word table": self.table}
        blocks = ", ".join(f"{name} in blocks of {size}" for name, size in parts.items() if size is not None)
        floats = f", {', '.join(self.keep)} in floats" if self.keep else ""
        return f"{blocks}: one of {self.codes} vectors each{floats} (smaller on disk, not faster)"


def check_block(path: str, width: int, block: int) -> None:
    """Raise `InputError` unless blocks divide the rows of a matrix."""
    if width % block:
        raise InputError(f"product: blocks of {block} do not divide the {width} inputs of {path}; take a divisor")


def replace_matrix(network: PreTrainedModel, path: str, layer: nn.Module) -> None:
    """Replace a projection, or the word table wherever it is used."""
    if path == rows_of(network, family_of(network).word_table):
        replace_table(network, layer)
    else:
        replace_module(network, path, layer)
