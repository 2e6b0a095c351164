"""Internal signals of a network of any family: hidden states and attention scores, besides the logits.

Entry 0 of the hidden states is the output of the embeddings, entry l the output of block l. Scores are indexed by
0-based block, so that those of block l are entry l - 1. Scores are taken before mask and softmax; since fused kernels
do not return them, `expose_scores` sets an attention function that does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from lissom.data.batches import Batch, Count, Members
from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.compressed import logits_of
from lissom.models.families import family_of
from lissom.models.patterned import has_patterns
from lissom.models.pooling import text_vector
from lissom.models.sites import blocks_of, window_of

_NAME = "lissom_scores"
_CAPTURED = "lissom_captured_scores"


@dataclass(frozen=True)
class SignalSpec:
    """Which signals to return besides the logits."""

    hidden: tuple[int, ...] = ()
    """Entries of the hidden states."""
    scores: tuple[int, ...] = ()
    """Blocks, 0-based."""
    pooled: bool = False
    """Return only the hidden state of the token that stands for the text: the first, or with causal attention the last
    real one."""
    padding: bool = False
    """Whether the signals of padding are wanted too, which a cache otherwise does not hold."""


@dataclass
class Signals:
    """Signals of one forward pass."""

    logits: Tensor
    """`[batch, labels]`."""
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """`[batch, n, d]` by entry, or `[batch, d]` with `SignalSpec.pooled`."""
    scores: dict[int, Tensor] = field(default_factory=dict)
    """`Q K^T / sqrt(d_h)`, `[batch, heads, n, n]` by block; with the soft cap of a network that has one."""


def signals_of(network: PreTrainedModel, batch: Batch, spec: SignalSpec) -> Signals:
    """Run a network on a batch and return the signals of `spec`; scores need `expose_scores` around the call."""
    with capture_signals(network, spec) as signals:
        signals.logits = logits_of(network, batch)
    if spec.pooled:
        causal = family_of(network).decoder
        signals.hidden = {
            entry: text_vector(hidden, batch.mask, causal=causal) for entry, hidden in signals.hidden.items()
        }
    return signals


def visible_pairs(network: PreTrainedModel, block: int, mask: Tensor) -> Tensor:
    """Return which pairs of real tokens the attention of a block sees, `[batch, 1, n, n]` bool, query before key.

    With causal attention a query sees no later keys, and with a sliding window none that are too far from it.

    Args:
        network: the network.
        block: the block, 0-based.
        mask: 1 for real tokens, `[batch, n]`.
    """
    real = mask.bool()
    pairs = real[:, :, None] & real[:, None, :]
    places = torch.arange(mask.shape[1], device=mask.device)
    distance = places[:, None] - places
    if family_of(network).decoder:
        pairs = pairs & (distance >= 0)
    if (window := window_of(network, block)) is not None:
        pairs = pairs & (distance.abs() < window)
    return pairs[:, None]


def count_visible_pairs(network: PreTrainedModel, block: int) -> Count:
    """Return the `Count` of the pairs that the attention of a block sees."""
    causal, window = family_of(network).decoder, window_of(network, block)

    def count(members: Members) -> float:
        lengths = members.lengths.astype(np.int64)
        hidden = lengths - (lengths if window is None else np.minimum(lengths, window))
        beyond = hidden * (hidden + 1) // 2  # pairs with the key too far before the query, and as many after it
        pairs = lengths * (lengths + 1) // 2 - beyond if causal else lengths**2 - 2 * beyond
        return float(pairs.sum())

    return count


@contextmanager
def capture_signals(network: PreTrainedModel, spec: SignalSpec) -> Iterator[Signals]:
    """Capture the signals of a single forward pass within the context, those of all tokens.

    The caller sets `signals.logits`.
    """
    blocks = blocks_of(network) if spec.hidden or spec.scores else nn.ModuleList()
    signals = Signals(logits=torch.empty(0))

    def keep(entry: int, value: Any) -> None:
        signals.hidden[entry] = value[0] if isinstance(value, tuple) else value

    def before(_: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        keep(0, inputs[0] if inputs else keywords["hidden_states"])

    def after(entry: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: keep(entry, output)

    handles = [blocks[entry - 1].register_forward_hook(after(entry)) for entry in spec.hidden if entry]
    if 0 in spec.hidden:
        handles.append(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
    attentions = {block: _attention_of(network, block) for block in spec.scores}
    for attention in attentions.values():
        setattr(attention, _CAPTURED, None)
    try:
        yield signals
        signals.scores = {block: getattr(attention, _CAPTURED) for block, attention in attentions.items()}
    finally:
        for handle in handles:
            handle.remove()
        for attention in attentions.values():
            delattr(attention, _CAPTURED)
    assert all(scores is not None for scores in signals.scores.values()), "scores are wanted, but not exposed"


@contextmanager
def expose_scores(*networks: PreTrainedModel) -> Iterator[None]:
    """Make the attention scores of networks available to `signals_of` within the context."""
    previous = [network.config._attn_implementation for network in networks]
    for network in networks:
        network.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        for network, name in zip(networks, previous, strict=True):
            network.set_attn_implementation(name)


def check_signals(network: PreTrainedModel, spec: SignalSpec, role: str) -> None:
    """Raise `InputError` if a network has no blocks, or fewer than `spec` needs; `role` names it in the message."""
    if not (spec.hidden or spec.scores):
        return
    model_type = network.config.model_type
    if not family_of(network).stacks:
        raise InputError(
            f"the {role} is a {model_type}, which has no Transformer blocks: this method compares hidden states "
            "or attention of blocks; use one that compares logits"
        )
    if spec.scores:
        check_technique(network, "scores", f"the {role}")
        if has_patterns(network):
            raise InputError(
                f"the {role} attends to some pairs of tokens only, and this method needs the scores of all; use one "
                "that compares logits or hidden states"
            )
    available, deepest = len(blocks_of(network)), max((*spec.hidden, *(block + 1 for block in spec.scores)))
    if deepest > available:
        raise InputError(f"the {role} has {available} blocks; signals of block {deepest} are wanted")


def _attention_of(network: PreTrainedModel, block: int) -> nn.Module:
    """Return the module that is passed to a block's attention function."""
    return blocks_of(network)[block].get_submodule(family_of(network).stack.attention[0].module)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention without a fused kernel, and capture its scores.

    query is `[batch, heads, n, d_h]`; key and value have the same shape, or fewer heads (grouped-query attention).
    """
    if key.shape[1] != query.shape[1]:  # heads that share keys and values
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if hasattr(module, _CAPTURED):
        setattr(module, _CAPTURED, scores)
    masked_scores = scores if attention_mask is None else scores + attention_mask
    probabilities = masked_scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    output = nn.functional.dropout(probabilities, dropout, module.training) @ value
    return output.transpose(1, 2).contiguous(), probabilities


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
