"""Remove the heads and FFN neurons with the least first-order importance, to a budget over all blocks.

Scores are normalised by their block's L2 norm, since gradients differ in size between blocks (Molchanov et al. 2017),
and ranked over all blocks together, so that blocks may keep different numbers of units. With several rounds, each
removes an equal part, and importance is measured again in between, without training (Michel et al. 2019, section 4.1).
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lissom.data.batches import Batch, sorted_batches
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepHeads, KeepNeurons
from lissom.models.sites import attention_sites, ffn_sites, head_size, sites_of_kind
from lissom.prune.confidence import head_confidence
from lissom.prune.config import FirstOrderPruning
from lissom.prune.importance import head_importance, neuron_importance
from lissom.prune.relevance import head_relevance
from lissom.training.budget import largest_within
from lissom.training.config import BudgetParams
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 32
_SHARES = [percent / 100 for percent in range(1, 101)]
"""Shares that a budget may find."""
_Kind = type[KeepHeads] | type[KeepNeurons]


def plan(model: CompressedModel, lesson: Lesson, params: FirstOrderPruning) -> Recipe:
    """Return the recipe that prunes a model to the budget.

    Args:
        model: the model to prune; not changed.
        lesson: importance is averaged over `calibration_examples` of its labelled training examples.
        params: budget, rounds and calibration.

    Raises:
        InputError: the model has no Transformer blocks, no attention of the wanted kind, or exceeds the budget even
            with the fewest units.
    """
    data = lesson.texts(model)
    members = data.labelled(params.calibration_examples)
    batches = partial(sorted_batches, data, _BATCH_SIZE, model.pad_id, members)
    scores = _scores(model, batches, params)
    units = {kind: sum(map(len, of_kind.values())) for kind, of_kind in scores.items()}
    final: dict[_Kind, float] = {KeepHeads: params.heads, KeepNeurons: params.neurons}
    if params.budget is not None:
        final = dict.fromkeys(scores, _share_within(model, lesson, scores, params, params.budget))
    facts: dict[str, Any] = {}
    if KeepHeads in scores:
        facts["head_sites"] = [site.name for site in attention_sites(model.network)]
        facts["head_scores"] = _shown(model, scores[KeepHeads])
    before = {kind: _keep(model, kind, of_kind, 1.0, params) for kind, of_kind in scores.items()}
    pruned, edits = model, list[Edit]()
    for number in range(1, params.rounds + 1):
        if number > 1:
            scores = _scores(pruned, batches, params)
        added: list[Edit] = []
        for kind, of_kind in scores.items():
            share = 1 - (1 - final[kind]) * number / params.rounds
            added.append(_keep(pruned, kind, of_kind, share * units[kind] / sum(map(len, of_kind.values())), params))
        edits = [_composed(edit, edits) for edit in added] if edits else added
        if number < params.rounds:
            pruned = copy.deepcopy(pruned)
            pruned.edit(added)
    if params.budget is None and edits == list(before.values()):
        raise InputError(
            f"prune: heads: {params.heads:g} and neurons: {params.neurons:g} remove nothing, since every block keeps a "
            f"head, and neurons go in multiples of {params.neuron_multiple}; lower them or prune.neuron_multiple"
        )
    for edit in edits:
        if isinstance(edit, KeepHeads):
            facts["heads_kept"] = [list(kept) for kept in edit.kept]
    return Recipe(edits=edits, facts=facts)


def _scores(
    model: CompressedModel, batches: Callable[[], Iterable[Batch]], params: FirstOrderPruning
) -> dict[_Kind, dict[int, Tensor]]:
    """Return the importance of the units of what is pruned, by the number of the site."""
    network, loss = model.network, model.manifest.task.loss
    result: dict[_Kind, dict[int, Tensor]] = {}
    if params.heads < 1:
        sites = sites_of_kind(network, params.attention)
        match params.head_criterion:
            case "gradient":
                of_heads = head_importance(network, batches(), loss)
            case "relevance":
                of_heads = head_relevance(network, batches())
            case "confidence":
                of_heads = head_confidence(network, batches())
        result[KeepHeads] = {site: of_heads[site] for site in sites}
    if params.neurons < 1:
        result[KeepNeurons] = dict(enumerate(neuron_importance(network, batches(), loss)))
    return result


def _shown(model: CompressedModel, scores: Mapping[int, Tensor]) -> list[list[float]]:
    """Return every head's share in the scores of its site, for the report; an empty list for sites without scores."""
    shares = {site: score / score.abs().sum().clamp_min(1e-20) for site, score in scores.items()}
    return [
        [round(float(value), 4) for value in shares[site]] if site in shares else []
        for site in range(len(attention_sites(model.network)))
    ]


def _keep(
    model: CompressedModel, kind: _Kind, scores: Mapping[int, Tensor], share: float, params: FirstOrderPruning
) -> KeepHeads | KeepNeurons:
    """Return the edit that keeps a share of the units of some sites, and all of the others."""
    network = model.network
    if kind is KeepHeads:
        width, multiple = head_size(network), 1
        units = [network.get_submodule(site.key).out_features // width for site in attention_sites(network)]
    else:
        multiple = params.neuron_multiple
        units = [network.get_submodule(site.output).in_features for site in ffn_sites(network)]
    kept = [tuple(range(count)) for count in units]
    selected = select(list(scores.values()), min(1.0, share), multiple, uniform=params.uniform)
    for site, of_site in zip(scores, selected, strict=True):
        kept[site] = of_site
    return kind(kept=tuple(kept))


def _share_within(
    model: CompressedModel,
    lesson: Lesson,
    scores: Mapping[_Kind, Mapping[int, Tensor]],
    params: FirstOrderPruning,
    budget: BudgetParams,
) -> float:
    """Return the share of heads and neurons for a budget."""

    def edits(share: float) -> list[Edit]:
        return [_keep(model, kind, of_kind, share, params) for kind, of_kind in scores.items()]

    return largest_within(model, lesson, _SHARES, edits, budget)


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
