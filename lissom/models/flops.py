"""Floating-point operations of a network, counted during execution: 2 per multiply-add of a matrix product."""

import copy
from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lissom.attention.dense import spelled_out
from lissom.attention.run import DENSE_BELOW
from lissom.models.compressed import input_names, logits_from
from lissom.models.exits import BlockPart, EmbeddingPart, has_early_exits, parts_of
from lissom.models.patterned import NAME as PATTERNS
from lissom.models.patterned import has_patterns, has_windows
from lissom.models.shared_bias import step_by_step


def flops_by_depth(network: PreTrainedModel, lengths: Iterable[int]) -> dict[int, list[int]]:
    """Return the operations of one text, for each length in tokens and each exit.

    The list of a length holds the operations up to exit 1, 2, and so on; without exits it has a single entry. torch
    does not count recurrent layers.
    """
    # torch does not count fused attention; it counts transformers' eager one, the one with a shared bias, which is
    # spelt out too, and patterns as spelt-out products. Short texts are computed densely,
    # whatever the pattern, unless scores have a soft cap.
    network = copy.deepcopy(network).eval()
    is_local, dense = has_patterns(network) or has_windows(network), step_by_step(network)
    counts = {}
    with torch.no_grad(), spelled_out():
        for length in lengths:
            network.set_attn_implementation(PATTERNS if is_local and length > DENSE_BELOW else dense)
            counts[length] = _count(network, parts_of(network) if has_early_exits(network) else None, length)
    return counts


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
