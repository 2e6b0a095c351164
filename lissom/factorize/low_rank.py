"""Projections as products of two thin ones: truncated SVD with ranks by share, energy or a common budget.

Query, key and value are factorised apart. The SVD may be weighted, so that what is lost is what matters least: by the
inputs on some examples, which gives the least error of the outputs, or by the squared gradients of the loss.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.errors import InputError
from lissom.factorize.config import LowRankFactorization
from lissom.models.calibration import input_grams
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import LowRank
from lissom.models.edits.low_rank import fill, largest_rank, plain_linear
from lissom.models.factors import LowRankLinear
from lissom.models.linear_algebra import low_rank, singular_values
from lissom.models.sites import projections_of
from lissom.tasks.task import Task
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sampling import calibration_batches


def plan(model: CompressedModel, lesson: Lesson, params: LowRankFactorization) -> Recipe:
    """Return the recipe.

    Raises:
        InputError: a projection is factorised or quantised already, or nothing can be saved.
    """
    network = model.network
    paths = [path for target in params.targets for path in projections_of(network, target)]
    if not paths:
        raise InputError(
            f"low_rank: the model has no projections of {' and '.join(params.targets)}; word_table factorises the "
            "table of a model without blocks"
        )
    layers = {path: plain_linear(network, path, params.method) for path in paths}
    grams: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    if params.weighting != "none":
        examples = model, lesson, params.calibration_examples, params.seed
        if params.weighting == "inputs":
            grams = input_grams(network, layers, calibration_batches(*examples))
        else:  # one by one, since the square of a mean gradient is not the mean square
            rows = fisher_rows(network, layers, calibration_batches(*examples, batch_size=1), model.manifest.task)
    ranks = choose_ranks(layers, grams, rows, params.keep, params.by)
    if not ranks:
        raise InputError(f"low_rank: keep: {params.keep} by {params.by} saves nothing on any projection; lower it")
    factors = {
        path: low_rank(layers[path].weight, rank, rows=rows.get(path), gram=grams.get(path))
        for path, rank in ranks.items()
    }

    def set_factors(edited: CompressedModel) -> None:
        for path, (second, first) in factors.items():
            layer = edited.network.get_submodule(path)
            assert isinstance(layer, LowRankLinear)
            fill(layer, second, first, layer.second.bias)

    kept = sum(rank * sum(layers[path].weight.shape) for path, rank in ranks.items())
    facts = {
        "projections": len(ranks),
        "left_as_they_are": len(layers) - len(ranks),
        "kept": kept / sum(layers[path].weight.numel() for path in ranks),
    }
    return Recipe(edits=[LowRank(ranks=ranks)], calibrate=set_factors, facts=facts)


def choose_ranks(
    layers: Mapping[str, nn.Linear], grams: Mapping[str, Tensor], rows: Mapping[str, Tensor], keep: float,
    by: Literal["ratio", "energy", "budget"],
) -> dict[str, int]:  # fmt: skip
    """Return the rank of every projection that a factorisation makes smaller; others are left out.

    Args:
        layers: the projections.
        grams: the mean of x x^T of their inputs, if the SVD is weighted by inputs.
        rows: weights of their rows, if it is weighted by rows.
        keep: what is kept.
        by: what `keep` is a share of.
    """
    limits = {path: largest_rank(*layer.weight.shape) for path, layer in layers.items()}
    if by == "ratio":
        ranks = {path: int(keep * layer.weight.numel() / sum(layer.weight.shape)) for path, layer in layers.items()}
        return {path: max(rank, 1) for path, rank in ranks.items() if limits[path] >= 1}
    weights = {
        path: layer.weight.detach() * rows[path][:, None] if path in rows else layer.weight.detach()
        for path, layer in layers.items()
    }
    squares = {path: singular_values(weight, grams.get(path)).square() for path, weight in weights.items()}
    if by == "energy":
        ranks = {path: int((values.cumsum(0) < keep * values.sum()).sum()) + 1 for path, values in squares.items()}
        return {path: rank for path, rank in ranks.items() if rank <= limits[path]}
    budget = int(keep * sum(layer.weight.numel() for layer in layers.values()))
    return _within(budget, {path: sum(layer.weight.shape) for path, layer in layers.items()}, squares, limits)


def _within(
    budget: int, costs: Mapping[str, int], squares: Mapping[str, Tensor], limits: Mapping[str, int]
) -> dict[str, int]:
    """Give the ranks with the largest error per weight first, until the budget is spent; each matrix has one."""
    ranks = {path: 1 for path in costs if limits[path] >= 1}
    left = budget - sum(costs[path] for path in ranks)
    if left < 0:
        raise InputError(
            f"low_rank: keep by budget allows {budget:,} weights, and rank 1 of every projection has "
            f"{budget - left:,}; raise keep"
        )
    # Matrices differ in scale, so squared singular values are compared as shares of their sum in a matrix.
    gains = {path: (squares[path] / squares[path].sum()).tolist() for path in ranks}
    queue = [(-gains[path][1] / costs[path], path) for path in ranks if limits[path] > 1]
    heapq.heapify(queue)
    while queue:
        _, path = heapq.heappop(queue)
        if costs[path] > left:
            continue
        ranks[path] += 1
        left -= costs[path]
        if ranks[path] < limits[path]:
            heapq.heappush(queue, (-gains[path][ranks[path]] / costs[path], path))
    return ranks


def fisher_rows(
    network: PreTrainedModel, layers: Mapping[str, nn.Linear], batches: Sequence[Batch], task: Task
) -> dict[str, Tensor]:
    """Return the root of the summed squared gradients of every row of every weight, `[out]`.

    Batches of one example give the empirical Fisher information (Hsu et al. 2022, arXiv:2207.00112, equation 4).
    """
    network.eval()
    sums = {path: torch.zeros(layer.out_features, dtype=torch.float64) for path, layer in layers.items()}
    weights = [layer.weight for layer in layers.values()]
    device = next(network.parameters()).device
    for batch in batches:
        moved = batch.to(device)
        loss = task.loss(logits_of(network, moved), moved.targets)
        for path, gradient in zip(layers, torch.autograd.grad(loss, weights), strict=True):
            sums[path] += gradient.double().square().sum(1).cpu()
    return {path: total.sqrt().to(layers[path].weight.device) for path, total in sums.items()}
