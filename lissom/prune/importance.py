"""First-order importance of heads and neurons: the derivative of the loss with respect to a gate on each of them.

A gate xi = 1 multiplies a head's output (Michel et al. 2019, arXiv:1905.10650: I_h = E_x |dL/dxi_h|) or a neuron's
activation (Molchanov et al. 2017, arXiv:1611.06440). dL/dxi equals the signed sum of activation times gradient over
the structure and all tokens; the absolute value is taken per example, then averaged.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of
from lissom.models.sites import attention_sites, ffn_sites, head_groups, head_size

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits `[rows, outputs]` and targets `[rows]` to their mean loss, as `Task.loss` does."""


def head_importance(network: PreTrainedModel, batches: Iterable[Batch], loss: Loss) -> list[Tensor]:
    """Return I_h of every head (with grouped-query attention, of every group): a tensor `[heads]` per site.

    Args:
        network: in eval mode; its parameters get no gradients and are not changed.
        batches: examples that all have a target.
        loss: the loss whose derivative is taken.
    """
    width = head_size(network) * head_groups(network)
    return _gate_importance(network, [site.output for site in attention_sites(network)], width, batches, loss)


def neuron_importance(network: PreTrainedModel, batches: Iterable[Batch], loss: Loss) -> list[Tensor]:
    """Return the importance of every FFN neuron: a tensor `[neurons]` per site."""
    return _gate_importance(network, [site.output for site in ffn_sites(network)], 1, batches, loss)


@contextmanager
def gated(projections: Sequence[nn.Module], gates: list[Tensor], width: int) -> Iterator[None]:
    """Multiply the inputs of projections by gates within the context.

    Args:
        projections: one per site, with inputs `[batch, n, units * width]`.
        gates: one per site, `[batch, units]` or `[1, units]`.
        width: number of columns that share a gate.
    """

    def multiply(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0] * gate.repeat_interleave(width, dim=-1).unsqueeze(1),)

        return hook

    handles = [
        projection.register_forward_pre_hook(multiply(gate))
        for projection, gate in zip(projections, gates, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gate_importance(
    network: PreTrainedModel, paths: Sequence[str], width: int, batches: Iterable[Batch], loss: Loss
) -> list[Tensor]:
    assert not network.training, "dropout would blur the scores"
    projections = [_linear(network, path) for path in paths]
    device = next(network.parameters()).device
    totals = [torch.zeros(projection.in_features // width) for projection in projections]
    examples = 0
    for batch in batches:
        batch = batch.to(device)
        # One gate per example, so that a single backward pass gives per-example derivatives.
        gates = [torch.ones(len(batch), len(total), device=device, requires_grad=True) for total in totals]
        with gated(projections, gates, width):
            total_loss = loss(logits_of(network, batch), batch.targets) * len(batch.targets)
        for total, gradient in zip(totals, torch.autograd.grad(total_loss, gates), strict=True):
            total += gradient.abs().sum(0).cpu()
        examples += len(batch)
    return [total / examples for total in totals]


def _linear(network: nn.Module, path: str) -> nn.Linear:
    projection = network.get_submodule(path)
    assert isinstance(projection, nn.Linear)
    return projection
