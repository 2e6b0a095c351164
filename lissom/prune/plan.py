"""Pruning: which structures to remove."""

from transformers import PreTrainedModel

from lissom.data.encoding import Encoded
from lissom.models.edits import Edit
from lissom.prune import first_order
from lissom.prune.config import FirstOrderPruning, NoPruning, PruneParams


def plan(network: PreTrainedModel, data: Encoded, pad: int, params: PruneParams) -> list[Edit]:
    """Return the edits that a pruning method decides on; `data` are training examples, unlabelled ones among them."""
    match params:
        case NoPruning():
            return []
        case FirstOrderPruning():
            return first_order.plan(network, data, pad, params)
