"""Looking at the inputs of layers on some examples."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.exits import all_logits
from lissom.models.sites import reading_targets

Take = Callable[[str, Tensor], None]
"""Gets the path of a layer and the inputs of real tokens, `[tokens, in]`."""


def watch_inputs(
    network: PreTrainedModel, layers: Mapping[str, nn.Module], batches: Iterable[Batch], take: Take
) -> None:
    """Run some examples through a network in eval mode, and show the inputs of layers without those of padding.

    Args:
        network: the network.
        layers: its layers to watch, by path.
        batches: the examples.
        take: called for every layer in every batch.
    """
    written = reading_targets(network)
    masks: dict[str, Tensor] = {}

    def watch(path: str, layer: nn.Module) -> RemovableHandle:
        name = "decoder_attention_mask" if path in written else "attention_mask"

        def show(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values, mask = inputs[0].detach(), masks.get(name)
            is_of_tokens = mask is not None and values.shape[:-1] == mask.shape
            take(path, values[mask] if is_of_tokens else values.flatten(0, -2))

        return layer.register_forward_pre_hook(show)

    handles = [watch(path, layer) for path, layer in layers.items()]
    device = next(network.parameters()).device
    network.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                moved = batch.to(device)
                masks.update({name: mask.bool() for name, mask in moved.inputs.items() if name.endswith("mask")})
                all_logits(network, moved)
    finally:
        for handle in handles:
            handle.remove()


def input_grams(
    network: PreTrainedModel, layers: Mapping[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """Return for every layer the mean of x x^T over its inputs x, `[in, in]` float64."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(path: str, inputs: Tensor) -> None:
        values = inputs.double()
        sums[path] = sums[path] + values.T @ values if path in sums else values.T @ values
        counts[path] = counts.get(path, 0) + len(values)

    watch_inputs(network, layers, batches, add)
    return {path: total / max(counts[path], 1) for path, total in sums.items()}
