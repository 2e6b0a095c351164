"""Movement pruning: learn which weights to keep while the model is trained.

Sanh et al. 2020, arXiv:2005.07683, section 3. Every weight has a score S, and W * M(S) takes the weight's place: M is 1
for the highest share of a matrix's scores (hard), or where sigmoid(S) exceeds a threshold (soft, with a penalty on the
mean of sigmoid(S)). The gradient passes through M as if it were S: dL/dS = dL/dW' * W, so that scores fall where
weights move towards zero, and a weight that is masked may return.

The training starts from the weights of the pre-trained model, as the paper's does, and learns from the teacher what the
model knew; `rewind: none` starts from the model's own.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.models.layers import Indivisible
from lissom.prune.masks import prunable
from lissom.prune.pretrained import pretrained_weights
from lissom.prune.sparse_config import MovementPruning
from lissom.prune.unstructured import sparse_edit
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_LEAST = 0.005
"""Share of a matrix that a threshold leaves at least, so that no layer ends (the authors' code does so)."""
_SCORES = r"parametrizations\.weight\.0\.scores$"


def plan(model: CompressedModel, _: Lesson, params: MovementPruning) -> Recipe:
    """Return the recipe: scores beside the weights, a schedule, and at the end the masked weights alone.

    Raises:
        InputError: the weights of the pre-trained model do not fit the model, which has others.
    """
    layers = prunable(model.network)
    weights = pretrained_weights(model, params.seed) if params.rewind == "base" else {}

    def add_scores(trained: CompressedModel) -> None:
        _rewind(trained.network, weights, layers)
        for path in layers:
            layer = trained.network.get_submodule(path)
            masked = Masked(layer.get_parameter("weight"), params.threshold if params.variant == "soft" else None)
            parametrize.register_parametrization(layer, "weight", masked)

    def keep_masked(trained: CompressedModel) -> Sequence[Edit]:
        for mask in masks_of(trained.network):
            mask.kept = 1 - params.sparsity  # a training that was finished before has run no step
        for path in layers:
            parametrize.remove_parametrizations(trained.network.get_submodule(path), "weight")
        return [sparse_edit(trained.network)]

    def penalty(network: nn.Module) -> Tensor:
        return params.penalty * torch.cat([mask.scores.sigmoid() for mask in masks_of(network)]).mean()

    return Recipe(
        calibrate=add_scores,
        hooks=[Schedule(params)] if params.variant == "hard" else [],
        rates={_SCORES: params.score_learning_rate / params.training.learning_rate},
        penalty=penalty if params.variant == "soft" else None,
        needs_whole=True,
        finish=keep_masked,
    )


def _rewind(network: nn.Module, weights: Mapping[str, Tensor], layers: Sequence[str]) -> None:
    """Give a network other weights; those of `layers` that are zero stay zero."""
    parameters = dict(network.named_parameters())
    zeros = {f"{path}.weight": parameters[f"{path}.weight"] == 0 for path in layers}
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
            if name in zeros:
                parameters[name].masked_fill_(zeros[name], 0)


class Masked(nn.Module, Indivisible):
    """Multiplies a weight with the mask of its scores.

    Args:
        weight: the weight, `[out, in]`.
        threshold: of sigmoid(S); None keeps a share of the scores.
    """

    def __init__(self, weight: Tensor, threshold: float | None = None) -> None:
        super().__init__()
        # A vector, since the optimiser decays matrices, and scores must not be drawn to zero.
        self.scores = nn.Parameter(torch.zeros(weight.numel(), device=weight.device))
        self.register_buffer("zeros", (weight.detach() == 0).flatten())
        self.zeros: Tensor
        """Weights that were removed before: they go first, since their scores cannot move."""
        self.threshold = threshold
        self.kept = 1.0
        """Share of the scores that are kept, without a threshold."""

    def mask(self) -> Tensor:
        """Return the mask, `[out * in]`; of equal scores, the first ones are kept."""
        scores = self.scores.detach().masked_fill(self.zeros, -math.inf)
        least = math.ceil(_LEAST * len(scores))
        if self.threshold is not None:
            above = scores.sigmoid() > self.threshold
            if int(above.sum()) >= least:
                return above.to(scores.dtype)
        count = least if self.threshold is not None else math.floor(self.kept * len(scores) + 1e-9)
        if count == 0:
            return torch.zeros_like(scores)
        lowest = scores.kthvalue(len(scores) - count + 1).values
        above, equal = scores > lowest, scores == lowest
        return (above | equal & (equal.cumsum(0) <= count - above.sum())).to(scores.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """Map a weight `[out, in]` to the masked one."""
        through = self.mask() + (self.scores - self.scores.detach())
        return weight * through.view_as(weight).to(weight.dtype)


class Schedule(Hook):
    """Lets the kept share fall from 1 along a cubic (the paper's section 4), with a start and an end at rest."""

    def __init__(self, params: MovementPruning) -> None:
        self._params = params
        self._masks: list[Masked] = []

    def begin(self, network: nn.Module) -> None:
        """Find the masks."""
        self._masks = masks_of(network)

    def before_step(self, step: int, total: int) -> None:
        """Set the share of the step."""
        for mask in self._masks:
            mask.kept = kept_share(self._params, step, total)

    def after_step(self, step: int, total: int) -> None:
        """Set the share of what follows, so that scores on dev are those of the pruned model."""
        self.before_step(step + 1, total)


def kept_share(params: MovementPruning, step: int, total: int) -> float:
    """Return the share of weights that are kept in a step."""
    first, last = params.warmup * total, (1 - params.cooldown) * total
    progress = min(1.0, max(0.0, (step - first) / max(1.0, last - first)))
    return 1 - params.sparsity * (1 - (1 - progress) ** 3)


def masks_of(network: nn.Module) -> list[Masked]:
    """Return the masks of a network."""
    return [module for module in network.modules() if isinstance(module, Masked)]
