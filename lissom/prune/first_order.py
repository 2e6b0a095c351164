"""Remove the heads and FFN neurons with the least first-order importance, to a budget over all blocks.

Scores are normalised by their block's L2 norm, since blocks differ in the size of their gradients (Molchanov et al.
2017); then one ranking over all blocks decides, so that blocks keep unequal counts. Returns a recipe.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.data.batches import sorted_batches
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepHeads, KeepNeurons
from lissom.prune.config import FirstOrderPruning
from lissom.prune.importance import head_importance, neuron_importance
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 32


def plan(model: CompressedModel, lesson: Lesson, params: FirstOrderPruning) -> Recipe:
    """Return the recipe that prunes a model to the budget.

    Args:
        model: the model to prune; not changed.
        lesson: its labelled training examples, `calibration_examples` of them, are what importance is averaged over.
        params: budget and calibration.
    """
    network, loss = model.network, model.manifest.task.loss
    data = lesson.texts(model)
    members = data.labelled(params.calibration_examples)
    edits: list[Edit] = []
    if params.heads < 1:
        scores = head_importance(network, sorted_batches(data, _BATCH_SIZE, model.pad_id, members), loss)
        edits.append(KeepHeads(kept=select(scores, params.heads, 1, uniform=params.uniform)))
    if params.neurons < 1:
        scores = neuron_importance(network, sorted_batches(data, _BATCH_SIZE, model.pad_id, members), loss)
        edits.append(KeepNeurons(kept=select(scores, params.neurons, params.neuron_multiple, uniform=params.uniform)))
    return Recipe(edits=edits)


def select(scores: Sequence[Tensor], share: float, multiple: int, *, uniform: bool) -> tuple[tuple[int, ...], ...]:
    """Return the units to keep in every block: the best by normalised score, `ceil(share)` of all, ties by position.

    Units are taken in groups of `multiple` neighbours in their block's ranking, at least one group per block, so
    that every block keeps a multiple (but for a rest that the block had from the start).

    Args:
        scores: importance of every unit, one tensor `[units]` per block.
        share: share of all units to keep, in (0, 1].
        multiple: size of a group.
        uniform: keep the same number in every block.
    """
    orders = [torch.argsort(score, descending=True, stable=True) for score in scores]
    groups: list[tuple[float, int, int]] = []
    for block, (score, order) in enumerate(zip(scores, orders, strict=True)):
        ranked = score[order] / (score.norm() + 1e-20)
        for number, group in enumerate(ranked.split(multiple)):
            groups.append((-float(group.mean()), number, block))
    budget = max(len(scores), math.ceil(share * len(groups) - 1e-9))
    if uniform:
        counts = [math.ceil(budget / len(scores) - 1e-9)] * len(scores)
    else:
        # The first group of every block is in; a block's groups come in falling order, so counts say it all.
        counts = [1] * len(scores)
        for _, _, block in sorted(group for group in groups if group[1] > 0)[: budget - len(scores)]:
            counts[block] += 1
    return tuple(tuple(sorted(order[: count * multiple].tolist())) for order, count in zip(orders, counts, strict=True))
