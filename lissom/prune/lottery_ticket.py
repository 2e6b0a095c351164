"""Lottery tickets: remove weights after a training, set the others back to where they were before it, and train again.

Frankle and Carbin 2019, arXiv:1803.03635, section 1: round by round, each removing the same share of what is left.
Instead of to the start, weights may go back to an early step (Frankle et al. 2020, arXiv:1912.05671), or to the
pre-trained model (Chen et al. 2020, arXiv:2007.12223). Every training has a new optimiser and schedule.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.prune.criteria import batches_for, scores_of
from lissom.prune.masks import keep_highest, prunable
from lissom.prune.pretrained import pretrained_weights
from lissom.prune.sparse_config import LotteryTicketPruning
from lissom.prune.unstructured import apply_masks, sparse_edit
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sparsity import KeepZeros


def plan(model: CompressedModel, lesson: Lesson, params: LotteryTicketPruning) -> Recipe:
    """Return the recipe of all rounds.

    Raises:
        InputError: the weights of the pre-trained model do not fit the model, which has others.
    """
    layers = prunable(model.network)
    before = (
        pretrained_weights(model, params.seed) if params.rewind == "base" else dict(model.network.named_parameters())
    )
    data = lesson.texts(model)

    def remember(trained: CompressedModel) -> None:
        trained.network.register_module("remembered", Remembered(before))

    def remove_and_rewind(trained: CompressedModel, number: int) -> None:
        network, loss = trained.network.eval(), trained.manifest.task.loss
        batches = batches_for(params.criterion, data, trained.pad_id, params.calibration_examples, params.seed)
        scores = scores_of(params.criterion, network, layers, batches, loss, params.scope, params.seed)
        kept = {path: network.get_submodule(path).get_parameter("weight").detach().cpu() != 0 for path in layers}
        masks = keep_highest(scores, sparsity_after(params, number), params.scope, kept)
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), remembered_of(network).values(), strict=True):
                parameter.copy_(value)
        if number == params.rounds:
            generator = torch.Generator().manual_seed(params.seed)
            if params.control == "random_weights":
                _draw_weights(network, layers, generator)
            elif params.control == "random_mask":
                masks = {path: _shuffled(mask, generator) for path, mask in masks.items()}
        apply_masks(network, masks)

    def forget(trained: CompressedModel) -> Sequence[Edit]:
        del trained.network.remembered
        return [sparse_edit(trained.network)]

    hooks: list[Hook] = [KeepZeros()]
    if params.rewind_after:
        hooks.append(RememberLater(params.rewind_after))
    return Recipe(
        calibrate=remember,
        hooks=hooks,
        needs_whole=True,
        trainings=params.rounds + 1,
        between=remove_and_rewind,
        finish=forget,
    )


def sparsity_after(params: LotteryTicketPruning, rounds: int) -> float:
    """Return the share of weights that are removed after some rounds."""
    return 1 - math.pow(1 - params.sparsity, rounds / params.rounds)


class Remembered(nn.Module):
    """The values of a network's parameters, as buffers, so that checkpoints hold them.

    Args:
        parameters: the values by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        for number, parameter in enumerate(parameters.values()):
            self.register_buffer(f"value_{number}", parameter.detach().clone())
        self.register_buffer("is_final", torch.tensor(False))
        self.is_final: Tensor
        """Whether the values of a later step have replaced those of the start."""

    def values(self) -> list[Tensor]:
        """Return the values, in the order of the network's parameters."""
        return [buffer for name, buffer in self.named_buffers() if name != "is_final"]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        # The best weights of a training may be those of an epoch before the step that is remembered.
        if not bool(self.is_final) or bool(state_dict[f"{prefix}is_final"]):
            super()._load_from_state_dict(state_dict, prefix, *others)


class RememberLater(Hook):
    """Remembers the weights after a share of the steps of the first training."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._network = nn.Module()
        self._remembered = Remembered({})

    def begin(self, network: nn.Module) -> None:
        """Find the network."""
        self._network = network
        self._remembered = remembered_of(network)

    def after_step(self, step: int, total: int) -> None:
        """Remember the weights, once."""
        if step + 1 >= max(1, round(self._share * total)) and not self._remembered.is_final:
            for parameter, value in zip(self._network.parameters(), self._remembered.values(), strict=True):
                value.copy_(parameter.detach())
            self._remembered.is_final.fill_(True)


def remembered_of(network: nn.Module) -> Remembered:
    """Return the values that weights go back to."""
    return next(module for module in network.modules() if isinstance(module, Remembered))


def _draw_weights(network: PreTrainedModel, layers: Sequence[str], generator: torch.Generator) -> None:
    """Draw the weights of layers from normal distributions with the deviations that they have."""
    with torch.no_grad():
        for path in layers:
            weight = network.get_submodule(path).get_parameter("weight")
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise.to(weight.device) * weight.std() + weight.mean())


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view_as(mask)
