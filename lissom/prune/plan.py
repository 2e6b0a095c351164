"""Pruning: every method behind one function."""

from lissom.models.compressed import CompressedModel
from lissom.prune import blocks, first_order, gates, hidden, layer_drop, lottery_ticket, movement, unstructured
from lissom.prune.config import (
    BlocksPruning,
    FirstOrderPruning,
    GatesPruning,
    HiddenPruning,
    LayerDropPruning,
    PruneMethod,
)
from lissom.prune.sparse_config import LotteryTicketPruning, MovementPruning, UnstructuredPruning
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe


def plan(model: CompressedModel, lesson: Lesson, params: PruneMethod) -> Recipe:
    """Return the recipe of a method; the model is not changed."""
    match params:
        case FirstOrderPruning():
            return first_order.plan(model, lesson, params)
        case BlocksPruning():
            return blocks.plan(model, lesson, params)
        case LayerDropPruning():
            return layer_drop.plan(model, lesson, params)
        case HiddenPruning():
            return hidden.plan(model, lesson, params)
        case UnstructuredPruning():
            return unstructured.plan(model, lesson, params)
        case MovementPruning():
            return movement.plan(model, lesson, params)
        case GatesPruning():
            return gates.plan(model, lesson, params)
        case LotteryTicketPruning():
            return lottery_ticket.plan(model, lesson, params)
