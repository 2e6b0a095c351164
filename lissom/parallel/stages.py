"""Splitting networks into pipeline stages of balanced cost, and a stage as a module.

Costs are per block, since pruned blocks cost less; each member of a training (peers, a teacher with its student) is
split by its own costs. A stage shares blocks and weights with the original network.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.anatomy import anatomy
from lissom.models.compressed import input_names
from lissom.models.families import family_of
from lissom.models.layers import observers_of, set_real_tokens
from lissom.models.sites import blocks_of, keep_layer_types, replace_entry, replace_module
from lissom.models.together import Together, members_of


def balanced(costs: Sequence[float], count: int) -> list[range]:
    """Split blocks into `count` contiguous, non-empty ranges that minimise the largest cost.

    Raises:
        InputError: there are fewer blocks than ranges.
    """
    if count > len(costs):
        raise InputError(f"a network of {len(costs)} blocks cannot be cut into {count} stages; take a shorter pipeline")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    # best[k][n]: largest cost of k ranges over the first n blocks, and the start of the last of them
    best = [{0: (0.0, 0)}]
    for number in range(1, count + 1):
        row = {}
        for end in range(number, len(costs) + 1):
            options = [(max(best[-1][start][0], sums[end] - sums[start]), start) for start in best[-1] if start < end]
            row[end] = min(options)
        best.append(row)
    cuts, end = [], len(costs)
    for number in range(count, 0, -1):
        start = best[number][end][1]
        cuts.append(range(start, end))
        end = start
    return cuts[::-1]


def block_costs(network: PreTrainedModel) -> list[float]:
    """Return the cost of every block: its number of parameters in matrices, to which the time is proportional."""
    return [float(block.attention + block.ffn) for block in anatomy(network).blocks]


def split_blocks(network: nn.Module, count: int) -> list[list[range]]:
    """Return, for every member of a training, the ranges of blocks of its stages."""
    cuts = []
    for member in members_of(network):
        assert isinstance(member, PreTrainedModel)
        cuts.append(balanced(block_costs(member), count))
    return cuts


def stage_of(name: str, network: nn.Module, cuts: list[list[range]]) -> int:
    """Return the stage that holds a parameter or buffer, by its name in the network."""
    number = 0
    member: nn.Module = network
    if isinstance(network, Together):
        first, _, name = name.partition(".")
        number, member = int(first), network[int(first)]
    assert isinstance(member, PreTrainedModel)
    family, stretches = family_of(member), cuts[number]
    blocks = f"{family.stack.blocks}."
    if name.startswith(blocks):
        block = int(name.removeprefix(blocks).partition(".")[0])
        return next(stage for stage, stretch in enumerate(stretches) if block in stretch)
    entry = tuple(f"{path}." for path in (family.embeddings, family.embedding_projection, family.position_table))
    return 0 if name.startswith(entry) else len(stretches) - 1


class Stretch(nn.Module):
    """One pipeline stage: a range of blocks of every member.

    The first stage has the embeddings, the last one the heads; all others map hidden states `[batch, n, d]` of every
    member to hidden states.
    """

    def __init__(
        self, network: nn.Module, cuts: list[list[range]], stage: int, precision: torch.dtype | None = None
    ) -> None:
        super().__init__()
        members = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
        self.first, self.last = stage == 0, stage + 1 == len(cuts[0])
        parts = [
            _cut_out(member, blocks[stage], self.first, self.last) for member, blocks in zip(members, cuts, strict=True)
        ]
        self.parts = nn.ModuleList(parts)
        self._observers = observers_of(self.parts)
        self._precision = precision

    def forward(self, *hidden: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Map the hidden states of every member (none on the first stage) to hidden states or logits."""
        outputs = []
        set_real_tokens(self._observers, inputs)
        device = next(iter(inputs.values())).device
        with torch.autocast(device.type, dtype=self._precision or torch.bfloat16, enabled=self._precision is not None):
            for number, part in enumerate(self.parts):
                assert isinstance(part, PreTrainedModel)
                if not self.first:
                    entry = part.get_submodule(family_of(part).embeddings)
                    assert isinstance(entry, _Entry)
                    entry.hidden = hidden[number]
                part_inputs = {name: inputs[name] for name in input_names(part)}
                outputs.append(
                    part(**part_inputs).logits if self.last else part.base_model(**part_inputs).last_hidden_state
                )
        return tuple(outputs)


class _Entry(nn.Module):
    """Replaces the embeddings on later stages: returns the hidden states of the previous stage for any input."""

    hidden: Tensor

    def forward(self, *_: Tensor | None, **__: Tensor | None) -> Tensor:
        """Return the hidden states."""
        return self.hidden


def _cut_out(network: PreTrainedModel, blocks: range, first: bool, last: bool) -> PreTrainedModel:
    """Return a copy of a network with some of its blocks; layers and weights are shared with the network."""
    family = family_of(network)
    memo: list[object] = [*network.parameters(), *network.buffers(), *blocks_of(network)]
    memo += [module for module in network.modules() if not list(module.children())]
    part: PreTrainedModel = copy.deepcopy(network, {id(item): item for item in memo})
    replace_module(part, family.stack.blocks, nn.ModuleList(blocks_of(network)[number] for number in blocks))
    keep_layer_types(part.config, blocks)
    if not first:
        replace_entry(part, _Entry())
    if not last:
        if family.final_norm is not None:
            replace_module(part, family.final_norm, nn.Identity())
        for path in {*family.head, family.token_classifier or family.classifier}:
            if getattr(part.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], None) is not None:
                replace_module(part, path, None)
    return part
