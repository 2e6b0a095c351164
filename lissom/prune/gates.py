"""Gates: learn which heads, neurons, blocks and channels to keep while the model is trained, then remove the rest.

A gate multiplies a head's output before the output projection (Voita et al. 2019, arXiv:1905.09418, section 5), a
neuron's activation, the change that a block makes to its input, or a channel of all hidden states. The gates'
probabilities of being open enter the loss: with a fixed factor, as in Voita et al., or with Lagrange multipliers that
hold the expected size at a target, while fine and coarse units are chosen together (Xia et al. 2022, arXiv:2204.00408,
section 3.2). In the last part of the training, gates are fixed at 0 or 1, so that what stays is trained as it will be.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, KeepBlocks, KeepChannels, KeepHeads, KeepNeurons
from lissom.models.families import family_of
from lissom.models.layers import Indivisible
from lissom.models.sites import blocks_at
from lissom.prune.blocks import weighed
from lissom.prune.channel_gates import gate_channels
from lissom.prune.config import GatesPruning
from lissom.prune.gate_costs import with_costs
from lissom.prune.gate_groups import GateGroup, channels_of, groups_of, open_units, smallest_share
from lissom.prune.hard_concrete import expected_state, open_probability, sample
from lissom.prune.layer_distillation import LayerDistillation
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_START = 2.5
"""First log alpha: a gate is open with a probability of 0.96, and is 1 without noise."""


def plan(model: CompressedModel, lesson: Lesson, params: GatesPruning) -> Recipe:
    """Return the recipe: gates beside the weights, a schedule, and at the end the open units alone.

    Raises:
        InputError: the model has no such units, its heads cannot be removed, or `params.keep` cannot be reached.
    """
    groups, asked = groups_of(model.network, params), params.keep
    if params.of != "parameters":
        groups, params = with_costs(model, lesson, groups, params)
    if params.keep is not None and params.keep < (least := smallest_share(groups)):
        if params.of != "parameters":  # costs are shares of the model's, `params.keep` is one of what gates can remove
            can_go = sum(group.units * group.cost for group in groups)
            least = 1 - can_go + least * can_go
        raise InputError(f"prune.method: gates: keep {asked:g} cannot be reached; the least here is {least:.3g}")
    handles: list[RemovableHandle] = []
    facts: dict[str, Any] = {}
    weight = params.layer_distillation
    followed = LayerDistillation(model.network, weight) if weight else None

    def add_gates(trained: CompressedModel) -> None:
        if (channels := channels_of(groups)) is not None:  # first, while there are no other gates in the network
            handles.extend(_add_to_channels(trained.network, channels))
        handles.extend(
            _add(trained.network.get_submodule(group.path), group) for group in groups if group.is_gated and group.path
        )
        if params.keep is not None:
            trained.network.register_module("constraint", Constraint())
        if followed is not None:  # last, so that what it keeps has gone through the gates
            handles.extend(followed.watch(trained.network))

    def remove_closed(trained: CompressedModel) -> Sequence[Edit]:
        kept = kept_units(groups, gates_of(trained.network))
        for handle in handles:
            handle.remove()
        for group in groups:
            if group.is_gated:
                del trained.network.get_submodule(group.path).gate
        if params.keep is not None:
            del trained.network.constraint
        if followed is not None:
            del trained.network.layer_map
        facts["kept"] = {kind: _count(groups, kept, kind) for kind in params.units}
        return _edits(trained, groups, kept)

    def penalty(network: nn.Module) -> Tensor:
        share = expected_share(groups, gates_of(network))
        constraint = next((module for module in network.modules() if isinstance(module, Constraint)), None)
        return share * params.penalty if constraint is None else constraint(share)

    factor = 1 / params.training.learning_rate
    return Recipe(
        calibrate=add_gates,
        hooks=[Schedule(groups, params)],
        rates={
            r"gate\.log_alpha$": params.gate_learning_rate * factor,
            r"constraint\.multipliers$": params.multiplier_learning_rate * factor,
        },
        penalty=penalty,
        terms=[] if followed is None else [followed.term],
        needs_whole=True,
        finish=remove_closed,
        facts=facts,
    )


class Gate(nn.Module, Indivisible):
    """The gates of one group of units.

    Args:
        group: the group.
    """

    def __init__(self, group: GateGroup) -> None:
        super().__init__()
        self.path = group.path
        self.log_alpha = nn.Parameter(torch.full((group.units,), _START))
        self.register_buffer("fixed", torch.full((group.units,), -1.0))  # in checkpoints: it cannot be derived again
        self.fixed: Tensor
        """0 (closed) or 1 (open) from when the gates are chosen; -1 before."""
        self._drawn: Tensor | None = None

    def draw(self) -> None:
        """Draw the gates that `drawn` returns until the next call."""
        self._drawn = self() if self.training else None

    def drawn(self) -> Tensor:
        """Return the gates, `[units]`, the same ones for all that reads them in a forward pass of a training."""
        return self._drawn if self.training and self._drawn is not None else self()

    def forward(self) -> Tensor:
        """Return the gates, `[units]`: drawn while the network trains, without noise otherwise."""
        values = sample(self.log_alpha) if self.training else expected_state(self.log_alpha)
        return torch.where(self.fixed < 0, values, self.fixed)

    def probability(self) -> Tensor:
        """Return every gate's probability of being open, `[units]`."""
        return torch.where(self.fixed < 0, open_probability(self.log_alpha), self.fixed)


class Constraint(nn.Module):
    """Lagrange multipliers for an expected share of the parameters (Xia et al. 2022, equation 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.target = 1.0

    def forward(self, share: Tensor) -> Tensor:
        """Return the penalty for an expected share, a scalar; multipliers rise along their gradient, weights fall."""
        multipliers = 2 * self.multipliers.detach() - self.multipliers  # the same values, the gradient's sign turned
        excess = share - self.target
        return multipliers[0] * excess + multipliers[1] * excess.square()


class Schedule(Hook):
    """Lowers the target to its final value, and fixes the gates for the last steps."""

    def __init__(self, groups: Sequence[GateGroup], params: GatesPruning) -> None:
        self._groups = groups
        self._params = params
        self._gates: dict[str, Gate] = {}
        self._constraint: Constraint | None = None

    def begin(self, network: nn.Module) -> None:
        """Find the gates."""
        self._gates = gates_of(network)
        self._constraint = next((module for module in network.modules() if isinstance(module, Constraint)), None)

    def before_step(self, step: int, total: int) -> None:
        """Set the target of the step."""
        if self._constraint is not None and self._params.keep is not None:
            progress = min(1.0, step / max(1.0, self._params.warmup * total))
            self._constraint.target = 1 - progress * (1 - self._params.keep)

    def after_step(self, step: int, total: int) -> None:
        """Fix the gates once the time to choose is over."""
        if step + 1 >= min(total, round((1 - self._params.cooldown) * total)) and not self._are_fixed():
            log_alpha = {path: gate.log_alpha.detach().cpu() for path, gate in self._gates.items()}
            for path, is_open in open_units(self._groups, log_alpha, self._params).items():
                self._gates[path].fixed.copy_(is_open)

    def _are_fixed(self) -> bool:
        return all(bool((gate.fixed >= 0).all()) for gate in self._gates.values())


def gates_of(network: nn.Module) -> dict[str, Gate]:
    """Return the gates of a network by the path of their group."""
    return {module.path: module for module in network.modules() if isinstance(module, Gate)}


def expected_share(groups: Sequence[GateGroup], gates: dict[str, Gate]) -> Tensor:
    """Return the expected share of the groups' parameters behind open gates, a scalar with a gradient."""
    expected, total = torch.zeros(()), 0.0
    for group in groups:
        if group.kind == "blocks":
            gate = gates.get(group.path)
            expected = expected + group.cost * (1 if gate is None else gate.probability().squeeze(0))
            total += group.cost
        elif group.cost:
            gate, block = gates.get(group.path), gates.get(group.block)
            units = torch.tensor(float(group.units)) if gate is None else gate.probability().sum()
            expected = expected + units * group.cost * (1 if block is None else block.probability().squeeze(0))
            total += group.units * group.cost
    share = expected / total
    channels = channels_of(groups)
    return share if channels is None else share * gates[channels.path].probability().mean()


def _add(module: nn.Module, group: GateGroup) -> RemovableHandle:
    """Add gates to an output projection, or to a block."""
    gate = Gate(group).to(next(module.parameters()).device)
    module.register_module("gate", gate)
    if group.kind == "blocks":
        return module.register_forward_hook(weighed(gate))
    return module.register_forward_pre_hook(_multiply(gate, group.width))


def _add_to_channels(network: PreTrainedModel, group: GateGroup) -> list[RemovableHandle]:
    """Add gates to the hidden channels of a network."""
    gate = Gate(group).to(next(network.parameters()).device)
    handles = gate_channels(network, gate.drawn)
    network.register_module("gate", gate)
    return [*handles, network.register_forward_pre_hook(lambda *_: gate.draw())]


def _multiply(gate: Gate, width: int) -> Callable[..., Any]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0] * gate().repeat_interleave(width).to(inputs[0].dtype),)

    return hook


def kept_units(groups: Sequence[GateGroup], gates: dict[str, Gate]) -> dict[str, tuple[int, ...]]:
    """Return the units of every group that stay, by path; where there are no gates, all do."""
    return {
        group.path: tuple(gates[group.path].fixed.nonzero().flatten().tolist())
        if group.is_gated
        else tuple(range(group.units))
        for group in groups
    }


def _count(groups: Sequence[GateGroup], kept: dict[str, tuple[int, ...]], kind: str) -> dict[str, int]:
    """Return how many units of a kind there were, and how many are left; what lies in a closed block is not."""
    of_kind = _of_kind(groups, kind)
    left = sum(len(kept[group.path]) for group in of_kind if kind in ("blocks", "channels") or kept[group.block])
    return {"before": sum(group.units for group in of_kind), "after": left}


def _edits(model: CompressedModel, groups: Sequence[GateGroup], kept: dict[str, tuple[int, ...]]) -> list[Edit]:
    """Return the edits that remove what is closed; what lies in a closed block goes with it."""
    edits: list[Edit] = []
    for kind, edit in (("heads", KeepHeads), ("neurons", KeepNeurons)):
        of_kind = _of_kind(groups, kind)
        units = tuple(kept[group.path] if kept[group.block] else tuple(range(group.units)) for group in of_kind)
        if any(len(left) < group.units for left, group in zip(units, of_kind, strict=True)):
            edits.append(edit(kept=units))
    for stack in family_of(model.network).stacks:
        blocks = [f"{stack.blocks}.{number}" for number in range(len(blocks_at(model.network, stack)))]
        left = tuple(number for number, path in enumerate(blocks) if kept[path])
        if len(left) < len(blocks):
            edits.append(KeepBlocks(kept=left, stack=stack.title))
    channels = channels_of(groups)
    if channels is not None and len(kept[channels.path]) < channels.units:
        edits.append(KeepChannels(kept=kept[channels.path]))
    return edits


def _of_kind(groups: Sequence[GateGroup], kind: str) -> list[GateGroup]:
    return [group for group in groups if group.kind == kind]
