"""Confidence of attention heads: how much of its attention a head gives to a single token.

Voita et al. 2019, arXiv:1905.09418, section 4: the largest attention weight of a token, averaged over tokens, without
the end of the text.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.signals import SignalSpec, check_signals, expose_scores, signals_of, visible_pairs
from lissom.models.sites import blocks_of, head_groups


def head_confidence(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the confidence of every head in [0, 1], a tensor `[heads]` per block; of a group, that of its surest head.

    Args:
        network: in eval mode.
        batches: the texts.

    Raises:
        InputError: the family computes attention inside its blocks.
    """
    blocks = range(len(blocks_of(network)))
    spec = SignalSpec(scores=tuple(blocks))
    check_signals(network, spec, "model")
    sums, tokens = [torch.zeros(())] * len(blocks), 0
    with torch.inference_mode(), expose_scores(network):
        for batch in batches:
            batch = batch.to(network.device)
            scores = signals_of(network, batch, spec).scores
            inner = _without_end(batch.mask)
            tokens += int(inner.sum())
            for block in blocks:
                pairs = visible_pairs(network, block, batch.mask)
                weights = scores[block].masked_fill(~pairs, float("-inf")).softmax(-1).nan_to_num()
                largest = (weights * inner[:, None, None, :]).amax(-1)  # [batch, heads, n]
                sums[block] = sums[block] + (largest * inner[:, None, :]).sum((0, 2)).cpu()
    return [total.view(-1, head_groups(network)).amax(-1) / tokens for total in sums]


def _without_end(mask: Tensor) -> Tensor:
    """Return the mask, `[batch, n]` bool, without the last real token of every text."""
    real = mask.bool()
    return real & (real.cumsum(-1) < real.sum(-1, keepdim=True))
