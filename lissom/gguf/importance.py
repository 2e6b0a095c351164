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
from lissom.gguf.tensors import layer_tensor, name_map
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

    handles = [observe(path) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
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
    return _by_tensor(source, {path: (total / tokens).cpu().numpy() for path, total in sums.items()})


def _by_tensor(source: GgufModel, means: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return the means under llama.cpp's names, with zeros for the columns that were padded."""
    names = name_map(source.architecture, len(source.shapes.neurons))
    result = {}
    for path, mean in means.items():
        name = layer_tensor(names, path)
        if name == "output.weight" and name not in source.tensors:
            name = "token_embd.weight"  # a tied head
        if name is not None and name in source.tensors:
            width = source.tensors[name].shape[-1]
            result[name] = np.pad(mean, (0, width - len(mean))).astype(np.float32)
    return result
