"""Iterative product quantisation (Stock et al. 2020, arXiv:1907.05686) with Quant-Noise (Fan et al. 2020,
arXiv:2004.07320).

One part of the network after the other is replaced by codes of blocks; after each, a training adapts the codebooks of
the quantised parts and the weights of the others. Codes stay. Beforehand, a training in which some blocks are zero
makes the network used to blocks that are not exact.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.errors import InputError
from lissom.models.codebooks import TrainedCodebookEmbedding, TrainedCodebookLinear
from lissom.models.compressed import CompressedModel
from lissom.models.edits import ProductQuantize
from lissom.models.edits.codebooks import PARTS, Part, check_block, replace_matrix
from lissom.models.layers import Indivisible, matrix_of
from lissom.quantize.compact_config import ProductQuantization
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, _: Lesson, params: ProductQuantization) -> Recipe:
    """Return the recipe.

    Raises:
        InputError: blocks do not divide the rows of a matrix, or it is factorised or quantised already.
    """
    edit = ProductQuantize(**params.model_dump(include={*ProductQuantize.model_fields} - {"kind"}))
    blocks = edit.blocks(model.network)
    for path, block in blocks.items():
        layer = model.network.get_submodule(path)
        if type(layer) not in (nn.Linear, nn.Embedding):
            raise InputError(
                f"product: {path} is a {type(layer).__name__}, factorised or quantised already, which cannot be stored "
                "as codes; set its part (ffn, attention, table) to null, or leave that method out"
            )
        check_block(path, matrix_of(layer).shape[1], block)
    if not blocks:
        raise InputError(
            "product: there is nothing to store as codes: all is in `keep`, or the word table of "
            "this family stays in floats"
        )
    facts = _sizes(model, edit)
    if params.training is None:
        return Recipe(edits=[edit], facts=facts)
    parts: list[Part | None] = [part for part in PARTS if edit.part(model.network, part)]
    if params.noise is not None:
        parts.insert(0, None)

    def begin(trained: CompressedModel, number: int = 0) -> None:
        """Prepare training number `number`, from 0."""
        part = parts[number]
        if part is None:
            assert params.noise is not None
            for path, block in blocks.items():
                noise = BlockNoise(params.noise, block)
                parametrize.register_parametrization(trained.network.get_submodule(path), "weight", noise)
            return
        _remove_noise(trained.network)
        for path, block in edit.part(trained.network, part).items():
            layer, settings = trained.network.get_submodule(path), (block, edit.codes, edit.iterations, edit.seed)
            if isinstance(layer, nn.Linear):
                replace_matrix(trained.network, path, TrainedCodebookLinear(layer, *settings))
            else:
                assert isinstance(layer, nn.Embedding)
                replace_matrix(trained.network, path, TrainedCodebookEmbedding(layer, *settings))

    return Recipe(
        calibrate=begin, trainings=len(parts), between=begin, finish=lambda _: [edit], facts=facts
    )  # fmt: skip


def _sizes(model: CompressedModel, edit: ProductQuantize) -> dict[str, Any]:
    """Return the bytes of the quantised matrices before and after, and their ratio."""
    before = after = 0
    for path, block in edit.blocks(model.network).items():
        count = matrix_of(model.network.get_submodule(path)).numel()
        before += 4 * count
        after += count // block + 2 * edit.codes * block
    return {"bytes_before": before, "bytes_after": after, "ratio_of_quantised": before / after}


class BlockNoise(nn.Module, Indivisible):
    """Sets some blocks of a weight to zero in every training step, and scales the others up so that the mean stays.

    The weight itself is not changed.
    """

    def __init__(self, share: float, block: int) -> None:
        super().__init__()
        self.share, self.block = share, block

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight `[rows, columns]` to the noisy one; in eval mode to itself."""
        if not self.training:
            return weight
        kept = torch.rand(len(weight), weight.shape[1] // self.block, device=weight.device) >= self.share
        return weight * (kept / (1 - self.share)).repeat_interleave(self.block, dim=1)


def _remove_noise(network: nn.Module) -> None:
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrizations = module.get_submodule("parametrizations.weight")
            if isinstance(parametrizations.get_submodule("0"), BlockNoise):
                module.eval()
                parametrize.remove_parametrizations(module, "weight")
