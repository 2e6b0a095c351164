"""Floating-point operations of a network, counted as they are executed: 2 for each multiply-add of a matrix product."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lissom.models.compressed import input_names, logits_from
from lissom.models.exits import early_exits, parts_of


def flops_by_depth(network: PreTrainedModel, length: int) -> list[int]:
    """Return the operations for one text of `length` tokens that leaves behind block 1, 2, and so on.

    Without exits the list has one entry, the whole network's.
    """
    # Fused attention is not counted by torch, attention in the open is.
    network = copy.deepcopy(network).eval()
    if network.config.model_type != "lissom_bilstm":
        network.set_attn_implementation("eager")
    device = next(network.parameters()).device
    ids = {name: torch.ones(1, length, dtype=torch.int64, device=device) for name in input_names(network)}
    with torch.no_grad():
        if not early_exits(network):
            with FlopCounterMode(display=False) as counter:
                logits_from(network, ids)
            return [counter.get_total_flops()]
        embed, steps = parts_of(network)
        with FlopCounterMode(display=False) as counter:
            hidden = embed(*ids.values())
        spent, totals = counter.get_total_flops(), []
        for step in steps:
            with FlopCounterMode(display=False) as counter:
                hidden, _ = step(hidden, ids["attention_mask"])
            spent += counter.get_total_flops()
            totals.append(spent)
    return totals
