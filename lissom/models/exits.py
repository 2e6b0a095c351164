"""Inference of networks with exits: the logits of all exits, or early exit per example.

An example leaves at the first exit whose normalised entropy (0 for a certain prediction, 1 for a uniform one) is at
most `speed` (FastBERT, eq. 7). With a speed below 0 no example leaves early; with 1 all leave at the first exit.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import input_names, inputs_of, logits_of
from lissom.models.families import family_of
from lissom.models.signals import SignalSpec, capture_signals
from lissom.models.sites import blocks_of, exits_of, keep_layer_types, replace_entry, replace_module


def has_early_exits(network: nn.Module) -> bool:
    """Return whether a network has exits before the last block."""
    exits = exits_of(network)
    return exits is not None and len(exits) > 1


def all_logits(network: nn.Module, batch: Batch) -> list[Tensor]:
    """Return the logits `[batch, labels]` of every exit in order of depth; of the head alone if there are none."""
    if not has_early_exits(network):
        return [logits_of(network, batch)]
    assert isinstance(network, PreTrainedModel)
    states = _behind_blocks(network, batch)
    return [exit_module(hidden, batch.mask) for exit_module, hidden in zip(network.exits, states, strict=True)]


def all_features(network: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Return the features `[batch, size]` of every exit, the inputs of their classifiers."""
    states = _behind_blocks(network, batch)
    return [exit_module.features(hidden, batch.mask) for exit_module, hidden in zip(network.exits, states, strict=True)]


def uncertainty(logits: Tensor) -> Tensor:
    """Return the normalised entropy, `[batch]` in [0, 1], of logits `[batch, labels]`; 1 if uniform."""
    log_p = logits.float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return (entropy / math.log(logits.shape[-1])).clamp(0, 1)


@dataclass(frozen=True)
class EarlyExitOutput:
    """Logits of a batch, and the depth at which each example left."""

    logits: Tensor
    """`[batch, labels]`."""
    depth: Tensor
    """Number of blocks executed per example, `[batch]` int64, from 1."""


def run_early_exit(network: PreTrainedModel, batch: Batch, speed: float) -> EarlyExitOutput:
    """Run a batch with early exit: each block processes only the examples that have not left yet.

    The logits of an example do not depend on the other examples of the batch.
    """
    embed, steps = parts_of(network)
    hidden, mask = embed(*inputs_of(network, batch).values()), batch.mask
    active = torch.arange(len(mask), device=mask.device)
    logits = torch.zeros(len(mask), network.config.num_labels, device=mask.device)
    depth = torch.zeros_like(active)
    for number, step in enumerate(steps, 1):
        hidden, exit_logits = step(hidden, mask)
        logits[active], depth[active] = exit_logits.float(), number
        uncertain = uncertainty(exit_logits) > speed
        if not bool(uncertain.any()):
            break
        hidden, mask, active = hidden[uncertain], mask[uncertain], active[uncertain]
    return EarlyExitOutput(logits, depth)


class EmbeddingPart(nn.Module):
    """The part of a network before its first block: maps inputs `[batch, n]` to hidden states `[batch, n, d]`."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = _slice(network, [])
        self.names = input_names(network)
        if (norm := family_of(network).final_norm) is not None:
            replace_module(self.network, norm, nn.Identity())

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map the network's inputs, in the order of `names`, to hidden states."""
        hidden: Tensor = self.network.base_model(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
        return hidden


class BlockPart(nn.Module):
    """One block with its exit: maps hidden states `[batch, n, d]` and a mask to hidden states and logits."""

    def __init__(self, network: PreTrainedModel, number: int) -> None:
        super().__init__()
        self.network = _slice(network, [number])
        self.exit = network.exits[number]
        family = family_of(network)
        replace_entry(self.network, _Passthrough())
        if family.final_norm is not None and number + 1 < len(network.exits):
            replace_module(self.network, family.final_norm, nn.Identity())

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block and its exit."""
        hidden = self.network.base_model(inputs_embeds=hidden, attention_mask=attention_mask).last_hidden_state
        return hidden, self.exit(hidden, attention_mask)


def parts_of(network: PreTrainedModel) -> tuple[EmbeddingPart, list[BlockPart]]:
    """Split a network with exits into its embeddings and its blocks; the parts share its weights."""
    return EmbeddingPart(network).eval(), [BlockPart(network, number).eval() for number in range(len(network.exits))]


class _Passthrough(nn.Module):
    """Replaces the embeddings: returns the hidden states that it is given."""

    def forward(self, *inputs: Tensor | None, **keywords: Tensor | None) -> Tensor:
        values = (*inputs, *keywords.values())
        return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def _slice(network: PreTrainedModel, numbers: list[int]) -> PreTrainedModel:
    """Return a copy with the blocks `numbers` and without exits; it shares the weights of `network`."""
    memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    part = copy.deepcopy(network, memo)
    part.exits = None
    keep_layer_types(part.config, numbers)
    part.config.use_cache = False  # a decoder's cache counts the blocks of the whole network
    replace_module(part, family_of(part).stack.blocks, nn.ModuleList(blocks_of(part)[number] for number in numbers))
    return part


def _behind_blocks(network: PreTrainedModel, batch: Batch) -> list[Tensor]:
    depth = len(blocks_of(network))
    with capture_signals(network, SignalSpec(hidden=tuple(range(1, depth)))) as signals:
        last = network.base_model(**inputs_of(network, batch)).last_hidden_state
    return [*(signals.hidden[entry] for entry in range(1, depth)), last]
