"""LayerDrop: train with whole blocks left out at random, then keep some of them, without a training afterwards.

In every step of the training each block is left out with the same probability, for all texts of the batch, so that the
network learns to do without any of them (Fan et al. 2019, arXiv:1909.11556). Then evenly spaced blocks stay ("every
other"). For r of N blocks in the end, the authors take a probability of 1 - r / N, which is the default here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepBlocks
from lissom.models.family import Stack
from lissom.models.sites import blocks_at, first_blocks
from lissom.models.students import evenly_spaced
from lissom.prune.blocks import counts_of, weighed
from lissom.prune.config import LayerDropPruning
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: LayerDropPruning) -> Recipe:
    """Return the recipe that trains with blocks left out, and keeps `params.blocks` of them, or what a budget allows.

    Raises:
        InputError: the model has fewer blocks, no Transformer blocks, or exceeds the budget even with one block.
    """
    first_blocks(model.network)  # says what to do about a model without blocks
    counts = counts_of(model, lesson, params)
    handles: list[RemovableHandle] = []
    rates = {stack: _rate(model, stack, count, params) for stack, count in counts.items()}

    def add(trained: CompressedModel) -> None:
        for stack, rate in rates.items():
            for number, block in enumerate(blocks_at(trained.network, stack)):
                if rate and not (stack.first_block_read and number == 0):
                    handles.append(block.register_forward_hook(_left_out(block, rate)))

    def keep(trained: CompressedModel) -> Sequence[Edit]:
        for handle in handles:
            handle.remove()
        edits: list[Edit] = []
        for stack, count in counts.items():
            available = len(blocks_at(trained.network, stack))
            if count < available:
                edits.append(KeepBlocks(kept=evenly_spaced(count, available), stack=stack.title))
        return edits

    facts = {f"{stack.title}_drop".strip("_"): rate for stack, rate in rates.items()}
    return Recipe(calibrate=add, finish=keep, facts=facts)


def _rate(model: CompressedModel, stack: Stack, count: int, params: LayerDropPruning) -> float:
    return 1 - count / len(blocks_at(model.network, stack)) if params.drop is None else params.drop


def _left_out(block: nn.Module, rate: float) -> Callable[..., Any]:
    """Return a hook by which a block returns its input with a probability, while the network trains.

    The block is computed all the same: every process of a training then has a gradient of every weight.
    """

    def stays() -> Tensor:
        weight = next(block.parameters())
        return torch.rand((), device=weight.device) >= rate if block.training else weight.new_ones(())

    return weighed(stays)
