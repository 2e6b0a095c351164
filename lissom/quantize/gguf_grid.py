"""Quantisation-aware training for a type of GGUF file.

Every product of the blocks multiplies with its weight as llama.cpp will read it, rounded to the grid of the file's
block format, and the gradient passes to the exact weight as if nothing had been rounded (the straight-through estimator
of Bengio et al. 2013, arXiv:1308.3432). At the end the rounded weights take the place of the exact ones, so that the
file holds what was trained and evaluated. Activations stay as they are; the word table has 6 bits or more in every
type, and is left to the export.
"""

from collections.abc import Sequence

import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.grid import block_types, on_grid, settled
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.layers import Indivisible
from lissom.quantize.config import GgufTraining
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, _: Lesson, params: GgufTraining) -> Recipe:
    """Return the recipe; the file's type alone determines the formats of the layers."""
    types = block_types(model.network, FILE_TYPES[params.type])
    quantised = {path: kind for path, kind in types.items() if kind not in (Kind.F32, Kind.F16, Kind.BF16)}

    def round_weights(trained: CompressedModel) -> None:
        for path, kind in quantised.items():
            parametrize.register_parametrization(trained.network.get_submodule(path), "weight", Grid(kind))

    def keep_rounded(trained: CompressedModel) -> Sequence[Edit]:
        for path in quantised:
            layer = trained.network.get_submodule(path)
            parametrize.remove_parametrizations(layer, "weight")
            weight = layer.get_parameter("weight")
            with torch.no_grad():
                weight.copy_(settled(weight.detach(), quantised[path]))
        return ()

    return Recipe(
        calibrate=round_weights, hooks=[RoundAnew()], finish=keep_rounded,
        facts={"type": params.type, "layers": len(quantised)},
    )  # fmt: skip


class Grid(nn.Module, Indivisible):
    """Rounds a weight to the grid of a block format, with the gradient of the identity."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self._rounded: Tensor | None = None
        self._of: tuple[int, int] | None = None
        """Which weight was rounded: where it lies, and how often it had changed."""

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight `[out, in]` to the rounded one, which is kept until the weight changes or `forget` is called."""
        present = (weight.data_ptr(), weight._version)
        if self._rounded is None or self._of != present:
            self._rounded, self._of = on_grid(weight, self.kind), present
        return weight + (self._rounded - weight).detach()

    def forget(self) -> None:
        """Round the weight anew next time."""
        self._rounded = None


class RoundAnew(Hook):
    """Lets weights be rounded anew after every step; a fused optimiser changes them without a trace."""

    def __init__(self) -> None:
        self._grids: list[Grid] = []

    def begin(self, network: nn.Module) -> None:
        """Find the grids."""
        self._grids = [module for module in network.modules() if isinstance(module, Grid)]
        self.after_step(0, 1)

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002
        """Forget what was rounded."""
        for grid in self._grids:
            grid.forget()
