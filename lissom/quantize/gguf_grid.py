"""Quantisation-aware training for a type of GGUF file.

Every product of the blocks multiplies with its weight as llama.cpp will read it, rounded to the grid of the file's
block format, and the gradient passes to the exact weight as if nothing had been rounded (the straight-through estimator
of Bengio et al. 2013, arXiv:1308.3432). At the end the rounded weights take the place of the exact ones, so that the
file holds what was trained and evaluated. Activations stay as they are; the word table has 6 bits or more in every
type, and is left to the export.
"""

from collections.abc import Sequence

from gguf import GGMLQuantizationType as Kind
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.grid import block_types, on_grid
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.layers import Indivisible
from lissom.quantize.config import GgufTraining
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
            parametrize.remove_parametrizations(trained.network.get_submodule(path), "weight")
        return ()

    return Recipe(calibrate=round_weights, finish=keep_rounded, facts={"type": params.type, "layers": len(quantised)})


class Grid(nn.Module, Indivisible):
    """Rounds a weight to the grid of a block format, with the gradient of the identity."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight `[out, in]` to the rounded one."""
        return weight + (on_grid(weight, self.kind) - weight).detach()
