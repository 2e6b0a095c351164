"""Weights of products as small integers in groups; inputs stay floats."""

from collections import Counter
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.low_rank import check_rank
from lissom.models.edits.quantizers import kept_layers, quantised_products
from lissom.models.edits.tables import replace_table, share_factors
from lissom.models.edits.word_table import rows_of
from lissom.models.fake_quant import FakeQuantEmbedding
from lissom.models.families import family_of
from lissom.models.grid import weight_high
from lissom.models.grouped import GroupedLinear, GroupGrid
from lissom.models.integers import IntegerEmbedding
from lissom.models.layers import Convertible
from lissom.models.linear_algebra import low_rank
from lissom.models.sites import replace_module


class GroupWeights(StructureEdit):
    """Round the weights of all matrix products, by default but those that return logits, in groups of inputs."""

    kind: Literal["group_weights"] = "group_weights"
    bits: Literal[2, 3, 4, 8] = 4
    group: int = Field(default=64, ge=1)
    clip: bool = False
    smooth: bool = False
    """Whether inputs have factors, which a calibration sets."""
    packed: bool = False
    keep: tuple[str, ...] = Field(default=(), max_length=1000)
    logits: bool = False
    """Whether the products that return logits are among them."""
    correction: int | None = Field(default=None, ge=1)
    """Rank of what is added to the rounded weights; null adds nothing."""
    table_bits: Literal[4, 8] | None = None
    """Bits of the word table, whose rows have a scale each; null leaves it in floats."""
    layers: dict[str, Literal[2, 3, 4, 8]] = Field(default_factory=dict)
    """Layers with other bits, by path."""

    @property
    def is_compact(self) -> bool:
        """Return whether the file of weights needs a compact form."""
        return True

    def grid(self, path: str) -> GroupGrid:
        """Return the grid of a layer."""
        return GroupGrid(self.layers.get(path, self.bits), self.group, self.clip)

    def paths(self, network: PreTrainedModel) -> list[str]:
        """Return the paths of the layers that are rounded.

        Raises:
            InputError: a pattern of `keep` is no regular expression, or matches nothing.
        """
        kept = kept_layers(network, self.keep)
        return [path for path in quantised_products(network, logits=self.logits) if path not in kept]

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place: weights are rounded to the nearest point of their grid.

        Raises:
            InputError: a correction is larger than the matrix.
        """
        for path in self.paths(network):
            layer = network.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            rounded = self.grouped(path, layer)
            if not layer.weight.is_meta:
                self.correct(rounded, layer.weight.detach())
            replace_module(network, path, rounded.train(layer.training))
        path = rows_of(network, family_of(network).word_table)
        table = network.get_submodule(path)
        if isinstance(table, Convertible):  # it was rounded in a training
            replace_table(network, table.converted())
        elif self.table_bits is not None and self.rounds_table(network):
            replace_table(network, IntegerEmbedding.of(table.weight, weight_high(self.table_bits)))
        share_factors(network)

    def rounds_table(self, network: PreTrainedModel) -> bool:
        """Return whether the word table is to be rounded, and is in floats so far."""
        path = rows_of(network, family_of(network).word_table)
        is_plain = type(network.get_submodule(path)) is nn.Embedding
        return self.table_bits is not None and is_plain and path not in kept_layers(network, self.keep)

    def round_table(self, network: PreTrainedModel) -> None:
        """Round the rows of the word table in every pass, for a training."""
        path = rows_of(network, family_of(network).word_table)
        table = network.get_submodule(path)
        if self.table_bits is not None and self.rounds_table(network):
            replace_table(network, FakeQuantEmbedding(table, weight_high(self.table_bits)).train(table.training))

    def grouped(self, path: str, layer: nn.Linear) -> GroupedLinear:
        """Return a layer with rounded weights, whose correction is 0."""
        grid, weight = self.grid(path), layer.weight.detach().float()
        groups = weight.reshape(len(weight), -1, grid.size(layer.in_features))
        scales, zeros = grid.parameters(groups)
        return GroupedLinear(
            grid.integers(groups, scales, zeros).flatten(1).to(torch.int8), scales.half(), zeros.to(torch.int8),
            None if layer.bias is None else layer.bias.detach().clone(),
            smoothing=torch.ones(layer.in_features, device=weight.device) if self.smooth else None,
            bits=grid.bits, packed=self.packed, correction=self._empty_correction(path, weight),
        )  # fmt: skip

    def correct(self, rounded: GroupedLinear, weight: Tensor, gram: Tensor | None = None) -> None:
        """Set the correction of a layer to the nearest product to what rounding has lost.

        Args:
            rounded: the layer.
            weight: its exact weights, `[out, in]`.
            gram: mean of x x^T of its inputs, `[in, in]`, for the least error of the outputs; None for that of weights.
        """
        if self.correction is None:
            return
        second, first = low_rank(weight - rounded.rounded(), self.correction, gram=gram)
        rounded.get_buffer("second").copy_(second)
        rounded.get_buffer("first").copy_(first)

    def _empty_correction(self, path: str, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.correction is None:
            return None
        rows, columns = weight.shape
        check_rank(self.kind, path, self.correction, rows, columns)
        return weight.new_zeros(rows, self.correction), weight.new_zeros(self.correction, columns)

    def describe(self) -> str:
        """Return the edit in a few words."""
        unpacked = "unpacked when a session starts: smaller on disk, not faster"
        speed = f"multiplied packed where onnxruntime has a kernel, else {unpacked}" if self.packed else unpacked
        counts = Counter(self.layers.values())
        mixed = ", ".join(f"{bits} bits in {counts[bits]} layers" for bits in sorted(counts))
        corrected = f", corrected at rank {self.correction}" if self.correction else ""
        table = f", word table of {self.table_bits} bits" if self.table_bits else ""
        return f"weights of {mixed or f'{self.bits} bits'} in groups of {self.group}{corrected}{table} ({speed})"
