"""Which weights to keep: those with the highest scores, exactly as many as asked for."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lissom.models.sites import projections_of

Scope = Literal["global", "layer"]


def prunable(network: PreTrainedModel) -> list[str]:
    """Return the paths of the projections of all attentions and feed-forward networks.

    Embeddings, norms, biases and heads are left as they are.
    """
    return [*projections_of(network, "attention"), *projections_of(network, "ffn")]


def keep_highest(
    scores: Mapping[str, Tensor], sparsity: float, scope: Scope, kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return masks, True for weights to keep: all but ceil(sparsity * count) with the lowest scores.

    Of equal scores, those that come first in the order of layers and rows go first, so that the count is exact.

    Args:
        scores: scores of every weight, `[out, in]`, by layer.
        sparsity: share of all weights to remove, in [0, 1], of those that are removed already too.
        scope: whether the share is of all layers together or of each.
        kept: masks of an earlier round: what is removed stays so.
    """
    ranked = {
        name: score.double() if kept is None else score.double().masked_fill(~kept[name], -math.inf)
        for name, score in scores.items()
    }
    if scope == "layer":
        masks = {name: _highest(score.flatten(), sparsity).view_as(score) for name, score in ranked.items()}
    else:
        masks = divided(_highest(torch.cat([score.flatten() for score in ranked.values()]), sparsity), ranked)
    return masks if kept is None else {name: mask & kept[name] for name, mask in masks.items()}


def keep_blocks(
    scores: Mapping[str, Tensor], pattern: str, sparsity: float, scope: Scope, kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return masks that keep whole tiles of R outputs and C inputs (`RxC`), which must divide a layer's.

    A tile's score is the sum of its weights'; arguments else as for `keep_highest`.
    """
    rows, columns = (int(part) for part in pattern.split("x"))
    of_tiles = {
        name: score.double().view(score.shape[0] // rows, rows, score.shape[1] // columns, columns).sum((1, 3))
        for name, score in scores.items()
    }
    alive = {
        name: mask.view(mask.shape[0] // rows, rows, mask.shape[1] // columns, columns).any(3).any(1)
        for name, mask in kept.items()
    }
    masks = keep_highest(of_tiles, sparsity, scope, alive)
    return {
        name: mask.repeat_interleave(rows, 0).repeat_interleave(columns, 1) & kept[name] for name, mask in masks.items()
    }


def keep_pattern(scores: Mapping[str, Tensor], pattern: str) -> dict[str, Tensor]:
    """Return masks that keep the N highest of every M neighbouring inputs (`N:M`), which M must divide."""
    keep, group = (int(part) for part in pattern.split(":"))
    masks = {}
    for name, score in scores.items():
        groups = score.view(score.shape[0], -1, group)
        places = groups.argsort(dim=-1, descending=True, stable=True)[..., :keep]
        masks[name] = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, places, True).view_as(score)
    return masks


def divided(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts of a vector that have the shapes of tensors, in their order."""
    result, start = {}, 0
    for name, tensor in like.items():
        result[name] = flat[start : start + tensor.numel()].view_as(tensor)
        start += tensor.numel()
    return result


def ranks(values: Tensor) -> Tensor:
    """Return the rank of every entry of a vector in [0, 1], 0 for the lowest; ties by position."""
    places = torch.empty(len(values), dtype=torch.double)
    places[values.argsort(stable=True)] = torch.arange(len(values), dtype=torch.double)
    return places / max(1, len(values) - 1)


def _highest(scores: Tensor, sparsity: float) -> Tensor:
    removed = math.ceil(sparsity * len(scores) - 1e-9)
    mask = torch.ones(len(scores), dtype=torch.bool)
    mask[scores.argsort(stable=True)[:removed]] = False
    return mask
