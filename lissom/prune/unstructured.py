"""Set single weights to zero: at once, or in steps during the training.

The sparsity of a schedule after the share x of its steps is s x (linear) or s (1 - (1 - x)^3) (cubic; Zhu and Gupta
2017, arXiv:1710.01878, equation 1), from 0 to the final s. What was removed stays removed. In rounds, the gradients of
the criteria are those of the training's own batch. Iteratively, removals alternate with whole trainings (Han et al.
2015, arXiv:1506.02626, section 3).
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit, SparseWeights
from lissom.prune.criteria import batches_for, scores_of
from lissom.prune.masks import keep_blocks, keep_highest, keep_pattern, prunable
from lissom.prune.sparse_config import UnstructuredPruning
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sparsity import KeepZeros, zeros_of


def plan(model: CompressedModel, lesson: Lesson, params: UnstructuredPruning) -> Recipe:
    """Return the recipe; the masks are computed from the model as it is now.

    Raises:
        InputError: a pattern does not divide the inputs of a layer.
    """
    layers = prunable(model.network)
    if params.pattern is not None:
        _check_pattern(model.network, layers, params.pattern)
    if params.schedule in ("linear", "cubic"):
        return Recipe(
            hooks=[Gradual(layers, params)], needs_whole=True, finish=lambda trained: [sparse_edit(trained.network)]
        )
    if params.schedule == "iterative":
        return _in_rounds(lesson, layers, params)
    masks = _masks(model, lesson, layers, params, params.sparsity)

    def remove(pruned: CompressedModel) -> None:
        apply_masks(pruned.network, masks)

    removed = sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    edit = SparseWeights(sparsity=removed, pattern=params.pattern if params.pattern and ":" in params.pattern else "")
    return Recipe(edits=[edit], calibrate=remove, needs_whole=True, facts={"sparsity": removed})


def _in_rounds(lesson: Lesson, layers: Sequence[str], params: UnstructuredPruning) -> Recipe:
    """Return the recipe of removals, each of the same share of what is left and each followed by a training."""

    def remove(model: CompressedModel, number: int) -> None:
        sparsity = 1 - (1 - params.sparsity) ** (number / params.steps)
        apply_masks(model.network, _masks(model, lesson, layers, params, sparsity))

    return Recipe(
        calibrate=lambda model: remove(model, 1),
        hooks=[KeepZeros()],
        needs_whole=True,
        trainings=params.steps,
        between=lambda model, number: remove(model, number + 1),
        finish=lambda trained: [sparse_edit(trained.network)],
    )


def apply_masks(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the weights of layers to zero where their masks are False."""
    with torch.no_grad():
        for path, mask in masks.items():
            weight = network.get_submodule(path).get_parameter("weight")
            weight.mul_(mask.to(weight.device))


def sparse_edit(network: PreTrainedModel) -> Edit:
    """Return the edit that tells the share of zeros in the weights of a network's blocks."""
    return SparseWeights(sparsity=zeros_of(network))


class Gradual(Hook):
    """Removes more and more weights in rounds, at equally spaced steps of a training.

    The masks are the zeros of the weights, and the scores those of the step alone, so that a resumed training goes on
    as an uninterrupted one.
    """

    def __init__(self, layers: Sequence[str], params: UnstructuredPruning) -> None:
        self._layers, self._params = layers, params
        self._weights: dict[str, nn.Parameter] = {}
        self._masks: dict[str, Tensor] = {}
        self._share: float | None = None

    def begin(self, network: nn.Module) -> None:
        """Find the weights; those that are zero already stay so."""
        self._weights = {path: network.get_submodule(path).get_parameter("weight") for path in self._layers}
        self._masks = {path: weight.detach() != 0 for path, weight in self._weights.items()}

    def before_step(self, step: int, total: int) -> None:
        """Find out whether a round is due."""
        ramp = max(1, round(self._params.ramp * total))
        every = max(1, ramp // self._params.steps)
        is_due = step < ramp and ((step + 1) % every == 0 or step + 1 == ramp)
        self._share = scheduled(self._params, (step + 1) / ramp) if is_due else None

    def on_gradients(self) -> None:
        """Remove weights if a round is due, by their values and gradients of before the step; mask the gradients."""
        if self._share is not None:
            scores = {path: self._score(weight.detach(), weight.grad).cpu() for path, weight in self._weights.items()}
            kept = {path: mask.cpu() for path, mask in self._masks.items()}
            masks = keep_highest(scores, self._share, self._params.scope, kept)
            self._masks = {path: mask.to(self._masks[path].device) for path, mask in masks.items()}
        for path, weight in self._weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self._masks[path])

    def after_step(self, step: int, total: int) -> None:  # noqa: ARG002
        """Set the removed weights to zero."""
        with torch.no_grad():
            for path, weight in self._weights.items():
                weight.mul_(self._masks[path])

    def _score(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        if self._params.criterion == "magnitude" or gradient is None:
            return weight.abs()
        return gradient.abs() if self._params.criterion == "gradient" else (weight * gradient).abs()


def scheduled(params: UnstructuredPruning, progress: float) -> float:
    """Return the sparsity of a schedule after a share of its steps."""
    if params.schedule == "cubic":
        return params.sparsity * (1 - (1 - progress) ** 3)
    return params.sparsity * progress


def _masks(
    model: CompressedModel, lesson: Lesson, layers: Sequence[str], params: UnstructuredPruning, sparsity: float
) -> dict[str, Tensor]:
    network, data = model.network.eval(), lesson.texts(model)
    batches = batches_for(params.criterion, data, model.pad_id, params.calibration_examples, params.seed)
    loss = model.manifest.task.loss
    scores = scores_of(params.criterion, network, layers, batches, loss, params.scope, params.seed)
    kept = {path: network.get_submodule(path).get_parameter("weight").detach().cpu() != 0 for path in layers}
    if params.pattern is None:
        return keep_highest(scores, sparsity, params.scope, kept)
    if ":" in params.pattern:
        return {path: mask & kept[path] for path, mask in keep_pattern(scores, params.pattern).items()}
    return keep_blocks(scores, params.pattern, sparsity, params.scope, kept)


def _check_pattern(network: PreTrainedModel, layers: Sequence[str], pattern: str) -> None:
    first, second = (int(part) for part in re.split("[:x]", pattern))
    rows, columns = (1, second) if ":" in pattern else (first, second)
    for path in layers:
        weight = network.get_submodule(path).get_parameter("weight")
        for count, size, name in zip(weight.shape, (rows, columns), ("outputs", "inputs"), strict=True):
            if count % size:
                raise InputError(f"prune.pattern {pattern}: {path} has {count} {name}, which {size} does not divide")
