"""Relevance of attention heads to the decision, by layer-wise relevance propagation.

Voita et al. 2019, arXiv:1905.09418, section 4: the relevance of the top-1 logit is handed back layer by layer, and that
of a head is the sum over its neurons in the concatenated outputs of the heads. Here nonlinear layers are replaced by
linear ones that give the same outputs: attention weights, the deviations of norms and the gates of feed-forward
networks are constants, and an activation multiplies its input by a constant. In such a network, relevance by the rule
with epsilon -> 0 is input times gradient (Ali et al. 2022, arXiv:2202.07304, section 3), and the relevances of all
inputs and biases add up to the logit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS

from lissom.data.batches import Batch
from lissom.models.compressed import logits_of
from lissom.models.sites import attention_sites, ffn_sites, head_groups, head_size

_ACTIVATIONS = tuple({kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()})
_ELEMENTWISE = {torch.tanh, torch.Tensor.tanh, F.tanh, F.gelu, F.relu, F.silu, torch.relu, torch.Tensor.relu}
_CONSTANTS = {torch.rsqrt, torch.Tensor.rsqrt}
_NEAR_ZERO = 1e-6


def head_relevance(network: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the share of every head (or group) in the relevance of its site, a tensor `[heads]` per site.

    Relevances may be negative; those of a site are summed over all examples, and then divided by the sum of their
    absolute values, which leaves their order as it is.

    Args:
        network: in eval mode; not changed.
        batches: the examples; of several outputs per example, such as those of tokens, all top-1 logits count.
    """
    sites, width = attention_sites(network), head_size(network) * head_groups(network)
    sums = [torch.zeros(network.get_submodule(site.query).out_features // width) for site in sites]
    for batch in batches:
        with linearised(network), _inputs_of(network, [site.output for site in sites]) as contexts:
            logits = logits_of(network, batch.to(network.device))
            top = logits.max(-1).values.sum()
            values = [contexts[site.output] for site in sites]
            gradients = torch.autograd.grad(top, values)
        for total, value, gradient in zip(sums, values, gradients, strict=True):
            relevance = (value * gradient).detach()
            total += relevance.view(*relevance.shape[:-1], len(total), width).sum((0, 1, 3)).cpu()
    return [total / total.abs().sum() for total in sums]


@contextmanager
def linearised(network: PreTrainedModel) -> Iterator[None]:
    """Within the context, the network has the same outputs and is linear in its embeddings and biases together."""
    # Without gradients of queries and keys, attention weights are constants.
    queries = [path for site in attention_sites(network) for path in (site.query, site.key, *site.positions)]
    gates = [site.inputs[0] for site in ffn_sites(network) if len(site.inputs) > 1]
    with ExitStack() as stack:
        for path in (*queries, *gates):
            handle = network.get_submodule(path).register_forward_hook(lambda _, __, output: output.detach())
            stack.callback(handle.remove)
        for module in network.modules():
            if isinstance(module, _ACTIVATIONS):
                handle = module.register_forward_hook(lambda _, inputs, output: _times_constant(inputs[0], output))
                stack.callback(handle.remove)
        stack.enter_context(_Linear())
        yield


class _Linear(TorchFunctionMode):
    """Replaces nonlinear functions that are no modules of their own."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        _: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or what stands for it."""
        output = function(*args, **(kwargs or {}))
        if function in _CONSTANTS:
            return output.detach()
        if function in _ELEMENTWISE:
            return _times_constant(args[0], output)
        if function is F.layer_norm:
            return _norm(*args, **(kwargs or {}))
        return output


def _times_constant(value: Tensor, output: Tensor) -> Tensor:
    """Return `output` as a constant times `value`; where the value is almost 0, it is passed on as it is."""
    tiny = value.abs() < _NEAR_ZERO
    factor = torch.where(tiny, torch.zeros_like(value), output / torch.where(tiny, torch.ones_like(value), value))
    return value * factor.detach()


def _norm(
    value: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Return the layer norm with the deviation as a constant."""
    dims = tuple(range(-len(shape), 0))
    centred = value - value.mean(dims, keepdim=True)
    deviation = (centred.square().mean(dims, keepdim=True) + eps).sqrt().detach()
    result = centred / deviation
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


@contextmanager
def _inputs_of(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the inputs of layers, by path, within the context."""
    inputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for path in paths:

            def keep(_: nn.Module, arguments: tuple[Tensor, ...], path: str = path) -> None:
                inputs[path] = arguments[0]

            stack.callback(network.get_submodule(path).register_forward_pre_hook(keep).remove)
        yield inputs
