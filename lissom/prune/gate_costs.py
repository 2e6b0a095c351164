"""What units cost in operations or in measured latency, for gates with such a target (as in ZipLM).

The cost of a model is taken as linear in its units (Kurtic et al. 2023, arXiv:2302.04089, add up a table
of what layers of every size take): a head and a neuron cost what removing half of their kind saves, divided by how many
go; a block costs, besides what is in it, what is left of the saving of half of the blocks. Three models are measured.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepBlocks, KeepHeads, KeepNeurons
from lissom.models.families import family_of
from lissom.models.sites import blocks_at
from lissom.prune.config import GatesPruning
from lissom.prune.gate_groups import GateGroup
from lissom.training.budget import cost_of
from lissom.training.config import BudgetParams
from lissom.training.lesson import Lesson


def with_costs(
    model: CompressedModel, lesson: Lesson, groups: Sequence[GateGroup], params: GatesPruning
) -> tuple[list[GateGroup], GatesPruning]:
    """Return the groups with costs as shares of the model's, and params whose `keep` is a share of all that can go.

    Raises:
        InputError: what no gate can remove costs more than `params.keep` allows.
    """
    assert params.of != "parameters" and params.keep is not None
    cost = cost_of(model, lesson, BudgetParams(of=params.of, keep=params.keep))

    def saved(edits: Sequence[Edit], removed: int) -> float:
        if not removed:
            return 0.0
        edited = copy.deepcopy(model)
        edited.edit(list(edits))
        return max(0.0, 1 - cost(edited)) / removed

    of_units = {kind: saved(*_half_of(model, groups, kind)) for kind in ("heads", "neurons")}
    inside = sum(group.units * of_units.get(group.kind, 0.0) for group in groups)
    blocks = [group for group in groups if group.kind == "blocks"]
    of_blocks = 0.0
    if "blocks" in params.units:
        of_blocks = max(0.0, saved(*_half_of_blocks(model)) - inside / len(blocks))
    priced = [
        replace(group, cost=of_blocks, block=group.path)
        if group.kind == "blocks"
        else replace(group, cost=of_units.get(group.kind, 0.0) if group.cost else 0.0)
        for group in groups
    ]
    total = sum(group.units * group.cost for group in priced)
    least = 1 - total
    if params.keep <= least:
        raise InputError(
            f"prune.keep: {params.keep:g} of the {params.of} cannot be reached: {least:.3g} is of what no gate removes"
        )
    return priced, params.model_copy(update={"keep": (params.keep - least) / total})


def _half_of(model: CompressedModel, groups: Sequence[GateGroup], kind: str) -> tuple[list[Edit], int]:
    """Return the edit that keeps half of the units of a kind, and how many go."""
    sites = [group for group in groups if group.kind == kind]
    kept = tuple(tuple(range(max(1, group.units // 2))) for group in sites)
    edit: Edit = KeepHeads(kept=kept) if kind == "heads" else KeepNeurons(kept=kept)
    return [edit], sum(group.units - len(units) for group, units in zip(sites, kept, strict=True))


def _half_of_blocks(model: CompressedModel) -> tuple[list[Edit], int]:
    edits: list[Edit] = []
    removed = 0
    for stack in family_of(model.network).stacks:
        count = len(blocks_at(model.network, stack))
        edits.append(KeepBlocks(kept=tuple(range((count + 1) // 2)), stack=stack.title))
        removed += count // 2
    return edits, removed
