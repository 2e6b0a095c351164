"""Confidence of attention heads: how much of its attention a head gives to a single token.

Voita et al. 2019, arXiv:1905.09418, section 4: the largest attention weight of a token, averaged over tokens, without
the end of the text.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of
from lissom.models.families import family_of
from lissom.models.family import AttentionSite
from lissom.models.shared_bias import step_by_step
from lissom.models.signals import SignalSpec, check_signals, expose_scores, signals_of, visible_pairs
from lissom.models.sites import attention_sites, blocks_of, head_groups


def head_confidence(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the confidence of every head in [0, 1], a tensor `[heads]` per site; of a group, that of its surest head.

    Of an encoder-decoder, sites are those of `attention_sites`: of the decoder, each token's own attention and that to
    the text.

    Args:
        network: in eval mode.
        batches: the texts.

    Raises:
        InputError: the family computes attention inside its blocks.
    """
    if family_of(network).has_encoder_and_decoder:
        return _of_encoder_and_decoder(network, batches)
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


def _of_encoder_and_decoder(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    sites = attention_sites(network)
    sums, tokens = [torch.zeros(())] * len(sites), [0] * len(sites)
    masks: dict[str, Tensor] = {}  # of the current batch

    def watch(number: int, site: AttentionSite) -> RemovableHandle:
        of_decoder = site.stack == family_of(network).stacks[-1].title

        def add(_module: nn.Module, _arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            queries = masks["decoder" if of_decoder else "text"]
            keys = masks["decoder" if of_decoder and site.kind == "self" else "text"]
            largest = (output[-1] * keys[:, None, None]).amax(-1)  # [batch, heads, n]
            sums[number] = sums[number] + (largest * queries[:, None]).sum((0, 2)).cpu()
            tokens[number] += int(queries.sum())

        handle: RemovableHandle = network.get_submodule(site.module).register_forward_hook(add)
        return handle

    handles = [watch(number, site) for number, site in enumerate(sites)]
    try:
        with torch.inference_mode(), _spelled_out(network):
            for batch in batches:
                batch = batch.to(network.device)
                masks["text"] = _without_end(batch.mask)
                masks["decoder"] = batch.inputs["decoder_attention_mask"].bool()  # the end is not read
                logits_of(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    return [total / max(count, 1) for total, count in zip(sums, tokens, strict=True)]


@contextmanager
def _spelled_out(network: PreTrainedModel) -> Iterator[None]:
    """Let attention return its weights within the context."""
    previous = network.config._attn_implementation
    network.set_attn_implementation(step_by_step(network))
    try:
        yield
    finally:
        network.set_attn_implementation(previous)


def _without_end(mask: Tensor) -> Tensor:
    """Return the mask, `[batch, n]` bool, without the last real token of every text."""
    real = mask.bool()
    return real & (real.cumsum(-1) < real.sum(-1, keepdim=True))
