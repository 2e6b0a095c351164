"""The importance of every column of a weight: the mean square of the input that it is multiplied with.

Quantisation with importances minimises the error of a layer's outputs on real texts, in place of the error of its
weights; llama.cpp calls the collection an importance matrix (imatrix).
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lissom.data.batches import Batch
from lissom.gguf.file import GgufModel
from lissom.gguf.tensors import TensorNames
from lissom.models.compressed import logits_of


def importance_of(source: GgufModel, batches: Iterable[Batch]) -> dict[str, NDArray[np.float32]]:
    """Return the mean square of the inputs of every product, by the name of its tensor, `[in]`.

    Args:
        source: the model; its network runs in eval mode.
        batches: calibration texts; padding does not count.
    """
    network = source.model.network.eval()
    device = next(network.parameters()).device
    sums: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def observe(path: str) -> RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert mask is not None
            total = inputs[0][mask].float().square().sum(0)
            sums[path] = sums[path] + total if path in sums else total

        handle: RemovableHandle = network.get_submodule(path).register_forward_pre_hook(hook)
        return handle

    names = _layer_names(source)
    handles = [observe(path) for path in names]
    tokens = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                batch = batch.to(device)
                mask = batch.mask.bool()
                tokens += int(mask.sum())
                logits_of(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    # With zeros for the columns that were padded.
    return {
        names[path]: np.pad((total / tokens).cpu().numpy(), (0, source.tensors[names[path]].shape[-1] - len(total)))
        for path, total in sums.items()
    }


def _layer_names(source: GgufModel) -> dict[str, str]:
    """Return the tensors that hold the weights of Linear layers, by the layers' paths."""
    names, result = TensorNames(source.model.network, source.architecture), {}
    for path, module in source.model.network.named_modules():
        name = names.of_layer(path) if isinstance(module, nn.Linear) else None
        if name == "output.weight" and name not in source.tensors:
            name = "token_embd.weight"  # a tied head
        if name is not None and name in source.tensors:
            result[path] = name
    return result
