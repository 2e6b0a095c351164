"""Weights of products as small integers in groups; inputs stay floats."""

from collections import Counter
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.quantizers import kept_layers, quantised_products
from lissom.models.grouped import GroupedLinear, GroupGrid
from lissom.models.sites import replace_module


class GroupWeights(StructureEdit):
    """Round the weights of all matrix products but those that return logits, in groups of inputs."""

    kind: Literal["group_weights"] = "group_weights"
    bits: Literal[2, 3, 4, 8] = 4
    group: int = Field(default=64, ge=1)
    clip: bool = False
    smooth: bool = False
    """Whether inputs have factors, which a calibration sets."""
    packed: bool = False
    keep: tuple[str, ...] = Field(default=(), max_length=1000)
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
        return [path for path in quantised_products(network) if path not in kept]

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place: weights are rounded to the nearest point of their grid."""
        for path in self.paths(network):
            layer = network.get_submodule(path)
            assert isinstance(layer, nn.Linear)
            replace_module(network, path, self.grouped(path, layer).train(layer.training))

    def grouped(self, path: str, layer: nn.Linear) -> GroupedLinear:
        """Return a layer with rounded weights."""
        grid, weight = self.grid(path), layer.weight.detach().float()
        groups = weight.reshape(len(weight), -1, grid.size(layer.in_features))
        scales, zeros = grid.parameters(groups)
        return GroupedLinear(
            grid.integers(groups, scales, zeros).flatten(1).to(torch.int8), scales.half(), zeros.to(torch.int8),
            None if layer.bias is None else layer.bias.detach().clone(),
            smoothing=torch.ones(layer.in_features, device=weight.device) if self.smooth else None,
            bits=grid.bits, packed=self.packed,
        )  # fmt: skip

    def describe(self) -> str:
        """Return the edit in a few words."""
        speed = "multiplied packed" if self.packed else "smaller on disk, not faster: unpacked when a session starts"
        counts = Counter(self.layers.values())
        mixed = ", ".join(f"{bits} bits in {counts[bits]} layers" for bits in sorted(counts))
        return f"weights of {mixed or f'{self.bits} bits'} in groups of {self.group} ({speed})"
