"""First-order importance of heads and neurons: how much the loss feels a gate on each of them.

A gate xi = 1 multiplies a head's output (Michel et al. 2019, arXiv:1905.10650: I_h = E_x |dL/dxi_h|) or a neuron's
activation (Molchanov et al. 2017, arXiv:1611.06440). dL/dxi equals the signed sum of activation times gradient over
the structure and all tokens; the absolute value is taken per example, then averaged. Returns scores.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of
from lissom.models.families import blocks_of, family_of, head_groups, head_size
from lissom.training.losses import label_loss


def head_importance(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Return I_h of every head (of every group, where heads share keys and values): a tensor `[heads]` per block.

    Args:
        network: in eval mode; its parameters get no gradients and are not changed.
        batches: labelled examples; all must carry a label.
    """
    width = head_size(network) * head_groups(network)
    return _gate_importance(network, family_of(network).attention_output, width, batches)


def neuron_importance(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the importance of every FFN neuron: a tensor `[neurons]` per block."""
    return _gate_importance(network, family_of(network).ffn_out, 1, batches)


@contextmanager
def gated(projections: Sequence[nn.Module], gates: list[Tensor], width: int) -> Iterator[None]:
    """Multiply the inputs of projections by gates while the context lasts.

    Args:
        projections: one for each block, with inputs `[batch, n, units * width]`.
        gates: one for each block, `[batch, units]` or `[1, units]`.
        width: columns that share a gate.
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


def _gate_importance(network: PreTrainedModel, path: str, width: int, batches: Iterable[Batch]) -> list[Tensor]:
    assert not network.training, "dropout would blur the scores"
    projections = [_linear(block, path) for block in blocks_of(network)]
    device = next(network.parameters()).device
    totals = [torch.zeros(projection.in_features // width) for projection in projections]
    examples = 0
    for batch in batches:
        batch = batch.to(device)
        # One gate per example: a single backward pass then gives the derivative of every example's own loss.
        gates = [torch.ones(len(batch.labels), len(total), device=device, requires_grad=True) for total in totals]
        with gated(projections, gates, width):
            loss = label_loss(logits_of(network, batch), batch.labels) * len(batch.labels)
        for total, gradient in zip(totals, torch.autograd.grad(loss, gates), strict=True):
            total += gradient.abs().sum(0).cpu()
        examples += len(batch.labels)
    return [total / examples for total in totals]


def _linear(block: nn.Module, path: str) -> nn.Linear:
    projection = block.get_submodule(path)
    assert isinstance(projection, nn.Linear)
    return projection
