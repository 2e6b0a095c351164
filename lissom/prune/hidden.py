"""Remove hidden channels: the same ones from every layer, since residual connections tie them.

A channel is scored by all weights that belong to it, or by its activation where norms read it (as Muralidharan et al.
2024, arXiv:2407.14679). The scores of the whole network are one list, so that blocks need no normalisation.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch, sorted_batches
from lissom.errors import InputError
from lissom.models.calibration import watch_inputs
from lissom.models.channels import channel_axes
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import KeepChannels
from lissom.prune.config import HiddenPruning
from lissom.prune.importance import Loss
from lissom.training.budget import largest_within
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 32


def plan(model: CompressedModel, lesson: Lesson, params: HiddenPruning) -> Recipe:
    """Return the recipe that keeps the channels with the highest scores.

    Raises:
        InputError: the model has no Transformer blocks, fewer channels than `params.multiple`, layers that were
            replaced already, or exceeds the budget even with the fewest channels.
    """
    network, width = model.network, int(model.network.config.hidden_size)
    scores = _scores(model, lesson, params)
    if params.multiple > width:
        raise InputError(f"prune.multiple: {params.multiple} channels; the model has {width}")
    order = torch.argsort(scores, descending=True, stable=True)

    def edits(count: float) -> list[KeepChannels]:
        return [KeepChannels(kept=tuple(sorted(order[: int(count)].tolist())))]

    counts = [*range(params.multiple, width, params.multiple), width]
    if params.budget is not None:
        count = largest_within(model, lesson, counts, edits, params.budget)
    else:
        count = max((number for number in counts if number <= params.keep * width + 1e-9), default=counts[0])
    if count == width and params.budget is None:
        raise InputError(
            f"prune.keep: {params.keep:g} of {width} channels in multiples of {params.multiple} removes none; lower "
            "keep or prune.multiple"
        )
    before = network.num_parameters()
    return Recipe(
        edits=edits(count) if count < width else [],
        facts={"channels": {"before": width, "after": int(count)}, "parameters_before": before},
    )


def _scores(model: CompressedModel, lesson: Lesson, params: HiddenPruning) -> Tensor:
    """Return the score of every channel, `[hidden_size]`."""
    network = model.network.eval()
    if params.criterion == "magnitude":
        return channel_magnitude(network)
    data = lesson.texts(model)
    batches = partial(sorted_batches, data, _BATCH_SIZE, model.pad_id, data.labelled(params.calibration_examples))
    if params.criterion == "activation":
        return channel_activation(network, batches())
    return channel_importance(network, batches(), model.manifest.task.loss)


def channel_magnitude(network: PreTrainedModel) -> Tensor:
    """Return the norm of all weights of every channel, `[hidden_size]`."""
    axes = channel_axes(network)
    return _over_weights(network, axes, lambda weight: weight.detach().square()).sqrt()


def channel_importance(network: PreTrainedModel, batches: Iterable[Batch], loss: Loss) -> Tensor:
    """Return the sum of |w dL/dw| over all weights w of every channel, `[hidden_size]`; the mean over batches.

    Args:
        network: in eval mode; its parameters get no gradients and are not changed.
        batches: examples that all have a target.
        loss: the loss whose derivative is taken.
    """
    device, axes = next(network.parameters()).device, channel_axes(network)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total, examples = torch.zeros(int(network.config.hidden_size)), 0
    for batch in batches:
        batch = batch.to(device)
        value = loss(logits_of(network, batch), batch.targets)
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
        by_weight = {id(weight): gradient for weight, gradient in zip(weights, gradients, strict=True)}
        total += len(batch) * _over_weights(network, axes, partial(_first_order, by_weight))
        examples += len(batch)
    return total / max(examples, 1)


def _first_order(gradients: Mapping[int, Tensor | None], weight: Tensor) -> Tensor:
    gradient = gradients.get(id(weight))
    return torch.zeros_like(weight) if gradient is None else (weight.detach() * gradient).abs()


def _over_weights(
    network: PreTrainedModel, axes: Mapping[str, tuple[int, ...]], value: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the sum of a value over all weights of every channel, `[hidden_size]`; tied weights count once."""
    total = torch.zeros(int(network.config.hidden_size), dtype=torch.float64)
    for name, parameter in network.named_parameters():
        values = value(parameter) if name in axes else None
        for axis in axes.get(name, ()):
            assert values is not None
            total += values.double().movedim(axis, 0).reshape(len(total), -1).sum(1).cpu()
    return total.float()


def channel_activation(network: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """Return the root of the mean square of every channel where norms read it, over all tokens, `[hidden_size]`.

    Every norm's inputs are divided by their own mean square, so that no block outweighs the others.
    """
    axes = channel_axes(network)
    norms: dict[str, nn.Module] = {
        path: module
        for path, module in network.named_modules()
        if axes.get(f"{path}.weight") == (0,) and module.get_parameter("weight").ndim == 1
    }
    sums = {path: torch.zeros(int(network.config.hidden_size), dtype=torch.float64) for path in norms}

    def add(path: str, inputs: Tensor) -> None:
        sums[path] += inputs.double().square().sum(0).cpu()

    watch_inputs(network, norms, batches, add)
    reached = [values / values.mean() for values in sums.values() if float(values.sum())]
    return torch.stack(reached).mean(0).sqrt().float()
