"""Scores of single weights: the higher, the more a weight matters.

magnitude: |w|. gradient: the mean of |dL/dw| over batches. taylor: |w dL/dw| of the mean loss, the loss that changes by
w -> 0 to first order (Molchanov et al. 2017, arXiv:1611.06440, equation 5). snip: the same of a single batch, over its
sum (Lee et al. 2019, arXiv:1810.02340, equation 6). magnitude_and_gradient: the larger of the ranks of |w| and of the
gradient, so that only a weight goes for which both are small. random: a control.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lissom.data.batches import Batch, collate, sorted_batches
from lissom.data.encoding import Encoded
from lissom.models.compressed import logits_of
from lissom.prune.importance import Loss
from lissom.prune.masks import Scope, divided, ranks
from lissom.prune.sparse_config import Criterion

_BATCH_SIZE = 32


def scores_of(
    criterion: Criterion, network: PreTrainedModel, layers: Sequence[str], batches: Sequence[Batch], loss: Loss,
    scope: Scope, seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the scores of the weights of layers, `[out, in]` by layer.

    Args:
        criterion: the kind of score.
        network: in eval mode, since dropout would blur gradients.
        layers: paths of Linear layers.
        batches: examples that all have a target, from `batches_for`; of `snip` the only one.
        loss: the loss whose gradient is taken.
        scope: of the ranks of `magnitude_and_gradient`.
        seed: of `random`.
    """
    weights = {path: network.get_submodule(path).get_parameter("weight").detach().cpu() for path in layers}
    match criterion:
        case "magnitude":
            return {path: weight.abs() for path, weight in weights.items()}
        case "random":
            generator = torch.Generator().manual_seed(seed)
            return {path: torch.rand(weight.shape, generator=generator) for path, weight in weights.items()}
        case "gradient":
            return gradients(network, layers, batches, loss, absolute=True)
        case "taylor":
            mean = gradients(network, layers, batches, loss, absolute=False)
            return {path: (weights[path] * mean[path]).abs() for path in layers}
        case "snip":
            (only,) = batches
            of_batch = gradients(network, layers, [only], loss, absolute=False)
            products = {path: (weights[path] * of_batch[path]).abs() for path in layers}
            total = sum(float(product.double().sum()) for product in products.values())
            return {path: product / total for path, product in products.items()}
        case "magnitude_and_gradient":
            small = gradients(network, layers, batches, loss, absolute=True)
            return _larger_rank({path: weight.abs() for path, weight in weights.items()}, small, scope)


def batches_for(criterion: Criterion, data: Encoded, pad: int, examples: int, seed: int) -> list[Batch]:
    """Return the examples from which a criterion's gradients are taken.

    For `snip` that is one batch at random, with an example of every label (Lee et al. 2019, section 4.1).

    Args:
        criterion: the kind of score.
        data: the training examples.
        pad: id of the padding token.
        examples: how many examples with a target, evenly spaced, are looked at.
        seed: of the choice for `snip`.
    """
    members = data.labelled(examples)
    if criterion != "snip":
        return list(sorted_batches(data, _BATCH_SIZE, pad, members))
    order = np.random.default_rng(seed).permutation(members)
    first = np.zeros(len(order), dtype=bool)
    if data.row_offsets is None and np.issubdtype(data.targets.dtype, np.integer):  # one label for every text
        first[np.unique(data.targets[order], return_index=True)[1]] = True
    chosen = np.concatenate([order[first], order[~first]])[: max(_BATCH_SIZE, int(first.sum()))]
    return [collate(data, chosen, pad)]


def gradients(
    network: PreTrainedModel, layers: Sequence[str], batches: Sequence[Batch], loss: Loss, *, absolute: bool
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss by weights, `[out, in]` by layer.

    With `absolute`, the mean over batches of the absolute values of their gradients, a batch counted by its targets.
    """
    assert not network.training, "dropout would blur the scores"
    parameters = [network.get_submodule(path).get_parameter("weight") for path in layers]
    totals = [torch.zeros(parameter.shape) for parameter in parameters]
    device, rows = parameters[0].device, 0
    for batch in batches:
        batch = batch.to(device)
        value = loss(logits_of(network, batch), batch.targets)
        rows += len(batch.targets)
        for total, gradient in zip(totals, torch.autograd.grad(value, parameters), strict=True):
            total += len(batch.targets) * (gradient.abs() if absolute else gradient).cpu()
    return {path: total / rows for path, total in zip(layers, totals, strict=True)}


def _larger_rank(first: dict[str, Tensor], second: dict[str, Tensor], scope: Scope) -> dict[str, Tensor]:
    """Return the larger of the ranks of two scores, among all weights or those of a layer."""
    if scope == "layer":
        return {
            path: torch.maximum(ranks(first[path].flatten()), ranks(second[path].flatten())).view_as(first[path])
            for path in first
        }
    flat = [torch.cat([score.flatten() for score in scores.values()]) for scores in (first, second)]
    return divided(torch.maximum(ranks(flat[0]), ranks(flat[1])), first)
