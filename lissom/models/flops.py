"""Floating-point operations of a network, counted as they are executed: 2 for each multiply-add of a matrix product."""

import copy
from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lissom.models.compressed import input_names, logits_from
from lissom.models.exits import BlockPart, EmbeddingPart, early_exits, parts_of


def flops_by_depth(network: PreTrainedModel, lengths: Iterable[int]) -> dict[int, list[int]]:
    """Return, for texts of some lengths in tokens, the operations of one that leaves behind block 1, 2, and so on.

    Without exits each list has one entry, the whole network's. Recurrent networks are not counted by torch.
    """
    # Fused attention is not counted by torch, attention in the open is.
    network = copy.deepcopy(network).eval()
    network.set_attn_implementation("eager")
    parts = parts_of(network) if early_exits(network) else None
    with torch.no_grad():
        return {length: _count(network, parts, length) for length in lengths}


def _count(network: PreTrainedModel, parts: tuple[EmbeddingPart, list[BlockPart]] | None, length: int) -> list[int]:
    device = next(network.parameters()).device
    ids = {name: torch.ones(1, length, dtype=torch.int64, device=device) for name in input_names(network)}
    with FlopCounterMode(display=False) as counter:
        if parts is None:
            logits_from(network, ids)
            return [counter.get_total_flops()]
        embed, steps = parts
        hidden, totals = embed(*ids.values()), []
        for step in steps:
            hidden, _ = step(hidden, ids["attention_mask"])
            totals.append(counter.get_total_flops())
        return totals
