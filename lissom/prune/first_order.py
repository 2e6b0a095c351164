"""Remove the heads and FFN neurons with the least first-order importance, to a budget over all blocks.

Scores are normalised by their block's L2 norm, since gradients differ in size between blocks (Molchanov et al. 2017),
and ranked over all blocks together, so that blocks may keep different numbers of units.
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
        lesson: importance is averaged over `calibration_examples` of its labelled training examples.
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
    """Return the units to keep in every block: those with the highest normalised scores, ties broken by position.

    Units are selected in groups of `multiple` that are adjacent in their block's ranking, at least one group per block,
    so that every block keeps a multiple of `multiple` units (or all units, if its size is not a multiple).

    Args:
        scores: importance of every unit, one tensor `[units]` per block.
        share: share of all units to keep, in (0, 1].
        multiple: size of a group.
        uniform: keep the same number in every block.
    """
    orders = [torch.argsort(score, descending=True, stable=True) for score in scores]
    groups: list[tuple[float, int, int]] = []
    for block, (score, order) in enumerate(zip(scores, orders, strict=True)):
        normalised = score[order] / (score.norm() + 1e-20)
        for number, group in enumerate(normalised.split(multiple)):
            groups.append((-float(group.mean()), number, block))
    budget = max(len(scores), math.ceil(share * len(groups) - 1e-9))
    if uniform:
        counts = [math.ceil(budget / len(scores) - 1e-9)] * len(scores)
    else:
        # Every block keeps its first group; the groups of a block are in descending order, so counts are sufficient.
        counts = [1] * len(scores)
        for _, _, block in sorted(group for group in groups if group[1] > 0)[: budget - len(scores)]:
            counts[block] += 1
    return tuple(tuple(sorted(order[: count * multiple].tolist())) for order, count in zip(orders, counts, strict=True))
