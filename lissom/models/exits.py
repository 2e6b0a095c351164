"""Networks with exits: all answers at once, or as early as an input is easy.

An answer is certain when its normalised entropy, 0 for one label and 1 for all alike, is at most the speed
(FastBERT, eq. 7). Below 0 nothing leaves early; at 1 everything leaves at the first exit.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import input_names, inputs_of, logits_of
from lissom.models.families import blocks_of, exits_of, family_of, replace_entry, replace_module
from lissom.models.signals import SignalSpec, capturing


def early_exits(network: nn.Module) -> bool:
    """Tell whether inputs can leave a network early."""
    exits = exits_of(network)
    return exits is not None and len(exits) > 1


def all_logits(network: nn.Module, batch: Batch) -> list[Tensor]:
    """Return the logits `[batch, labels]` of every exit, the last one being the answer; or the one answer."""
    if not early_exits(network):
        return [logits_of(network, batch)]
    assert isinstance(network, PreTrainedModel)
    states = _behind_blocks(network, batch)
    return [leave(hidden, batch.mask) for leave, hidden in zip(network.exits, states, strict=True)]


def all_features(network: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Return the features `[batch, size]` that every exit classifies."""
    states = _behind_blocks(network, batch)
    return [leave.features(hidden, batch.mask) for leave, hidden in zip(network.exits, states, strict=True)]


def uncertainty(logits: Tensor) -> Tensor:
    """Return the entropy of `[batch, labels]` over that of the uniform distribution, in [0, 1], `[batch]`."""
    log_p = logits.float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return (entropy / math.log(logits.shape[-1])).clamp(0, 1)


@dataclass(frozen=True)
class Early:
    """Answers of a batch, and how deep each example went."""

    logits: Tensor
    """`[batch, labels]`."""
    depth: Tensor
    """Blocks that were run, `[batch]` int64, from 1."""


def answer_early(network: PreTrainedModel, batch: Batch, speed: float) -> Early:
    """Run block after block on those examples that are not yet certain; an answer does not depend on its neighbours."""
    embed, steps = parts_of(network)
    hidden, mask = embed(*inputs_of(network, batch).values()), batch.mask
    active = torch.arange(len(mask), device=mask.device)
    logits = torch.zeros(len(mask), network.config.num_labels, device=mask.device)
    depth = torch.zeros_like(active)
    for number, step in enumerate(steps, 1):
        hidden, found = step(hidden, mask)
        logits[active], depth[active] = found.float(), number
        stay = uncertainty(found) > speed
        if not bool(stay.any()):
            break
        hidden, mask, active = hidden[stay], mask[stay], active[stay]
    return Early(logits, depth)


class EmbeddingPart(nn.Module):
    """A network up to its first block: the network's inputs `[batch, n]` in, hidden states `[batch, n, d]` out."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = _slice(network, [])
        self.names = input_names(network)
        if (norm := family_of(network).final_norm) is not None:
            replace_module(self.network, norm, nn.Identity())

    def forward(self, *inputs: Tensor) -> Tensor:
        """Embed."""
        hidden: Tensor = self.network.base_model(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
        return hidden


class BlockPart(nn.Module):
    """One block with its exit: hidden states `[batch, n, d]` and mask in, hidden states and logits out."""

    def __init__(self, network: PreTrainedModel, number: int) -> None:
        super().__init__()
        self.network = _slice(network, [number])
        self.exit = network.exits[number]
        family = family_of(network)
        replace_entry(self.network, _PassOn())
        if family.final_norm is not None and number + 1 < len(network.exits):
            replace_module(self.network, family.final_norm, nn.Identity())

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block and ask its exit."""
        hidden = self.network.base_model(inputs_embeds=hidden, attention_mask=attention_mask).last_hidden_state
        return hidden, self.exit(hidden, attention_mask)


def parts_of(network: PreTrainedModel) -> tuple[EmbeddingPart, list[BlockPart]]:
    """Return a network in parts that share its weights."""
    return EmbeddingPart(network).eval(), [BlockPart(network, number).eval() for number in range(len(network.exits))]


class _PassOn(nn.Module):
    """Stands for embeddings where hidden states come in."""

    def forward(self, *inputs: Tensor | None, **named: Tensor | None) -> Tensor:
        given = (*inputs, *named.values())
        return next(value for value in given if isinstance(value, Tensor) and value.is_floating_point())


def _slice(network: PreTrainedModel, numbers: list[int]) -> PreTrainedModel:
    """Return a copy with some of the blocks and no exits, on the same weights."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    part = copy.deepcopy(network, shared)
    part.exits = None
    replace_module(part, family_of(part).stack.blocks, nn.ModuleList(blocks_of(part)[number] for number in numbers))
    return part


def _behind_blocks(network: PreTrainedModel, batch: Batch) -> list[Tensor]:
    depth = len(blocks_of(network))
    with capturing(network, SignalSpec(hidden=tuple(range(1, depth)))) as signals:
        last = network.base_model(**inputs_of(network, batch)).last_hidden_state
    return [*(signals.hidden[entry] for entry in range(1, depth)), last]
