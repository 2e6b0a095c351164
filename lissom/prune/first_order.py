"""Remove the heads and FFN neurons with the least first-order importance, to a budget over all blocks.

Scores are normalised by their block's L2 norm, since gradients differ in size between blocks (Molchanov et al. 2017),
and ranked over all blocks together, so that blocks may keep different numbers of units. With several rounds, each
removes an equal part, and importance is measured again in between, without training (Michel et al. 2019, section 4.1).
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from lissom.data.batches import Batch, sorted_batches
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepHeads, KeepNeurons
from lissom.models.sites import ffn_sites, sites_of_kind
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
        params: budget, rounds and calibration.

    Raises:
        InputError: the model has no Transformer blocks, or no attention of the wanted kind.
    """
    data = lesson.texts(model)
    members = data.labelled(params.calibration_examples)
    batches = partial(sorted_batches, data, _BATCH_SIZE, model.pad_id, members)
    pruned, edits, units = model, list[Edit](), dict[type[Edit], int]()
    for number in range(1, params.rounds + 1):
        removed = (1 - params.heads) * number / params.rounds, (1 - params.neurons) * number / params.rounds
        added = _edits(pruned, batches, params, (1 - removed[0], 1 - removed[1]), units)
        edits = [_composed(edit, edits) for edit in added] if edits else added
        if number < params.rounds:
            pruned = copy.deepcopy(pruned)
            pruned.edit(added)
    return Recipe(edits=edits)


def _edits(
    model: CompressedModel,
    batches: Callable[[], Iterable[Batch]],
    params: FirstOrderPruning,
    shares: tuple[float, float],
    units: dict[type[Edit], int],
) -> list[Edit]:
    """Return the edits that leave shares of the heads and neurons that the first round found.

    Args:
        model: the model as earlier rounds have left it.
        batches: returns the labelled examples.
        params: what is pruned.
        shares: of the heads and of the neurons.
        units: their numbers; set in the first round.
    """
    network, loss, edits = model.network, model.manifest.task.loss, list[Edit]()
    for kind, share, importance, sites, multiple in (
        (KeepHeads, shares[0], head_importance, sites_of_kind(network, params.attention), 1),
        (KeepNeurons, shares[1], neuron_importance, range(len(ffn_sites(network))), params.neuron_multiple),
    ):
        if share < 1:
            scores = importance(network, batches(), loss)
            kept = [tuple(range(len(score))) for score in scores]
            left = sum(len(kept[site]) for site in sites)
            share *= units.setdefault(kind, left) / left
            selected = select([scores[site] for site in sites], min(1.0, share), multiple, uniform=params.uniform)
            for site, of_site in zip(sites, selected, strict=True):
                kept[site] = of_site
            edits.append(kind(kept=tuple(kept)))
    return edits


def _composed(later: Edit, earlier: Sequence[Edit]) -> Edit:
    """Return the edit that keeps what a later edit of its kind keeps of what an earlier one kept."""
    assert isinstance(later, KeepHeads | KeepNeurons)
    before = next(edit for edit in earlier if isinstance(edit, type(later)))
    kept = (tuple(first[unit] for unit in second) for first, second in zip(before.kept, later.kept, strict=True))
    return type(later)(kept=tuple(kept))


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
