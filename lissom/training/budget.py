"""Budgets: how much may stay so that a model has a share of its parameters, operations or latency."""

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.flops import flops_by_depth
from lissom.training.config import BudgetParams
from lissom.training.lesson import Lesson

Amount = TypeVar("Amount")


def largest_within(
    model: CompressedModel,
    lesson: Lesson,
    amounts: Sequence[Amount],
    edits: Callable[[Amount], Sequence[Edit]],
    budget: BudgetParams,
    prepare: Callable[[CompressedModel], None] | None = None,
    subject: str = "prune.budget",
) -> Amount:
    """Return the largest of some amounts with which the edited model is within a budget.

    Args:
        model: the model before the edits; not changed.
        lesson: its dev texts are those whose latency is measured.
        amounts: what may stay, ascending; costs must not fall with them.
        edits: returns the edits that leave an amount.
        budget: the share of the model's cost.
        prepare: what an edited model needs before it can be measured.
        subject: the key of the params that asks for it, the start of a message.

    Raises:
        InputError: the least amount exceeds the budget.
    """
    cost = cost_of(model, lesson, budget)

    def share(amount: Amount) -> float:
        edited = copy.deepcopy(model)
        edited.edit(list(edits(amount)))
        if prepare is not None:
            prepare(edited)
        return cost(edited)

    low, high = 0, len(amounts)  # amounts[low] is within the budget, amounts[high] is not
    if (least := share(amounts[0])) > budget.keep:
        raise InputError(
            f"{subject}: {budget.keep:g} of {budget.of} cannot be reached; the least is {least:.3g}, since what is not "
            "pruned stays, the word table for instance: set keep to that or more, or remove more kinds of units"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(amounts[middle]) <= budget.keep else (low, middle)
    return amounts[low]


def cost_of(whole: CompressedModel, lesson: Lesson, budget: BudgetParams) -> Callable[[CompressedModel], float]:
    """Return a function that gives what an edited model costs, as a share of what the whole one does."""
    if budget.of == "latency":
        texts = lesson.encode(whole, "dev")
        return lambda edited: lesson.latency_of(whole, edited, texts)
    if budget.of == "parameters":
        return lambda edited: edited.network.num_parameters() / whole.network.num_parameters()
    before = _operations(whole)
    return lambda edited: _operations(edited) / before


def _operations(model: CompressedModel) -> float:
    length = model.manifest.task.max_length
    return float(flops_by_depth(model.network, [length])[length][-1])
