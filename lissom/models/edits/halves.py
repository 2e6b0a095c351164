"""Weights in 16 bits."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.quantizers import kept_layers
from lissom.models.edits.tables import replace_table, share_factors
from lissom.models.edits.word_table import rows_of
from lissom.models.families import family_of
from lissom.models.halves import HalfEmbedding, HalfLinear
from lissom.models.sites import replace_module, tied_head


class HalfWeights(StructureEdit):
    """Store the weights of all matrix products and of the word table in 16 bits; nothing is trained afterwards."""

    kind: Literal["half_weights"] = "half_weights"
    type: Literal["float16", "bfloat16"] = "float16"
    keep: tuple[str, ...] = Field(default=(), max_length=1000)
    """Regular expressions over module paths: what matches one stays in 32 bits."""

    def paths(self, network: PreTrainedModel) -> list[str]:
        """Return the paths of the layers that are stored in 16 bits; raises `InputError` as `apply` does."""
        head, kept = tied_head(network), kept_layers(network, self.keep)
        return [
            path for path, module in network.named_modules()
            if type(module) is nn.Linear and path != head and path not in kept
        ]  # fmt: skip

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        Raises:
            InputError: a weight is too large for float16, or a pattern of `keep` matches nothing.
        """
        dtype, kept = getattr(torch, self.type), kept_layers(network, self.keep)
        for path in self.paths(network):
            layer = network.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            replace_module(network, path, HalfLinear(layer, dtype))
        table_path = rows_of(network, family_of(network).word_table)
        table = network.get_submodule(table_path)
        if type(table) is nn.Embedding and table_path not in kept:
            replace_table(network, HalfEmbedding(table, dtype))
        share_factors(network)
        self._check(network)

    def _check(self, network: PreTrainedModel) -> None:
        for path, module in network.named_modules():
            if not isinstance(module, HalfLinear | HalfEmbedding) or module.halves.is_meta:
                continue
            if not bool(module.halves.isfinite().all()):
                raise InputError(f"half: {path} has weights beyond the range of {self.type}; set type: bfloat16")

    def describe(self) -> str:
        """Return the edit in a few words."""
        floats = f", {', '.join(self.keep)} in float32" if self.keep else ""
        return f"weights in {self.type}{floats} (smaller on disk, not faster)"
