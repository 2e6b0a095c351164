"""Budgets: how much may stay so that a model has a share of its parameters or operations."""

import copy
from collections.abc import Callable, Sequence

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.flops import flops_by_depth
from lissom.prune.config import BudgetParams


def largest_within(
    model: CompressedModel, amounts: Sequence[float], edits: Callable[[float], Sequence[Edit]], budget: BudgetParams
) -> float:
    """Return the largest of some amounts with which the edited model is within a budget.

    Args:
        model: the model before the edits; not changed.
        amounts: what may stay, ascending; costs must not fall with them.
        edits: returns the edits that leave an amount.
        budget: the share of the model's cost.

    Raises:
        InputError: the least amount exceeds the budget.
    """
    whole = _cost(model, budget)

    def share(amount: float) -> float:
        edited = copy.deepcopy(model)
        edited.edit(list(edits(amount)))
        return _cost(edited, budget) / whole

    low, high = 0, len(amounts)  # amounts[low] is within the budget, amounts[high] is not
    if (least := share(amounts[0])) > budget.keep:
        raise InputError(f"prune.budget: {budget.keep:g} of {budget.of} cannot be reached; the least is {least:.3g}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(amounts[middle]) <= budget.keep else (low, middle)
    return amounts[low]


def _cost(model: CompressedModel, budget: BudgetParams) -> float:
    if budget.of == "parameters":
        return float(model.network.num_parameters())
    length = model.manifest.task.max_length
    return float(flops_by_depth(model.network, [length])[length][-1])
