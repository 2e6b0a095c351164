"""The grid of a block format: weights as llama.cpp reads them after they were encoded."""

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.gguf.architecture import architecture_of
from lissom.gguf.encode import encode
from lissom.gguf.file_types import FileType, type_of
from lissom.gguf.tensors import TensorNames
from lissom.models.sites import blocks_of, head_groups

_ROUNDS = 16
_MOST = 0.9
"""Share of the rows of a weight that came to rest; of others, none is on a grid."""


def on_grid(weight: Tensor, kind: Kind) -> Tensor:
    """Return a weight `[out, in]` rounded to a format's grid, on the weight's device."""
    blocks = encode(weight.detach().float().cpu().numpy(), kind)
    values: NDArray[np.float32] = gguf.quants.dequantize(blocks, kind)
    return torch.from_numpy(values).to(weight.device, weight.dtype)


def settled(weight: Tensor, kind: Kind) -> Tensor:
    """Return a weight `[out, in]` that a format holds exactly, near to what `on_grid` returns.

    The encoders of K types look for scales anew, and do not always find those that a rounded weight has. Rounded again
    and again, nearly all rows come to rest within a few rounds.
    """
    for _ in range(_ROUNDS):
        rounded = on_grid(weight, kind)
        if torch.equal(rounded, weight):
            break
        weight = rounded
    return weight


def is_on_grid(weight: NDArray[np.float32], kind: Kind) -> bool:
    """Return whether encoding a weight loses nothing, in most of its rows."""
    same = (gguf.quants.dequantize(encode(weight, kind), kind) == weight).all(-1)
    return bool(same.mean() > _MOST)


def block_types(network: PreTrainedModel, file_type: FileType) -> dict[str, Kind]:
    """Return the format of every Linear layer inside the blocks, by its path, in a file of a type.

    Raises:
        InputError: llama.cpp has no architecture for the network.
    """
    architecture, count = architecture_of(network), len(blocks_of(network))
    names = TensorNames(network, architecture)
    result = {}
    for path, module in network.named_modules():
        name = names.of_layer(path) if isinstance(module, nn.Linear) else None
        if name is not None and name.startswith("blk."):
            result[path] = type_of(
                name, tuple(module.weight.shape), file_type, count, is_tied=False, gqa=head_groups(network),
                has_importance=False,
            )  # fmt: skip
    return result
