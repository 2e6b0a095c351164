"""Sparse tensors in a file of weights: a bit for every weight, and the values that are not zero.

A tensor NAME becomes NAME.bits (uint8, eight weights each, the lowest bit first, in the order of rows) and NAME.values.
Its shape is that of the layer. Of float32, the pair is smaller than the tensor if more than 1 in 32 are zeros.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lissom.errors import ModelFormatError

_BITS, _VALUES = ".bits", ".values"


def encoded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state whose matrices are sparse where that is smaller."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        kept = tensor != 0
        size = tensor.numel() // 8 + int(kept.sum()) * tensor.element_size()
        if tensor.ndim == 2 and tensor.is_floating_point() and size < tensor.numel() * tensor.element_size():
            bits = np.packbits(kept.flatten().numpy(), bitorder="little")
            result |= {f"{name}{_BITS}": torch.from_numpy(bits), f"{name}{_VALUES}": tensor[kept]}
        else:
            result[name] = tensor
    return result


def decoded(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return a state with dense tensors only; on the meta device, sizes alone are looked at.

    Args:
        state: the tensors of a file.
        shapes: the shape of every tensor of the network.

    Raises:
        ModelFormatError: bits and values do not fit each other or the shape.
    """
    result = {name: tensor for name, tensor in state.items() if not _is_part(name, state)}
    for name in {name.removesuffix(_BITS) for name in state if name.endswith(_BITS) and _is_part(name, state)}:
        if name in shapes:
            result[name] = _dense(name, state[f"{name}{_BITS}"], state[f"{name}{_VALUES}"], shapes[name])
        else:
            result[name] = state[f"{name}{_BITS}"]  # of no tensor of the network, which the caller tells
    return result


def _is_part(name: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether a tensor is one of a pair."""
    return any(name.endswith(ending) for ending in (_BITS, _VALUES)) and all(
        f"{name.removesuffix(_BITS).removesuffix(_VALUES)}{ending}" in state for ending in (_BITS, _VALUES)
    )


def _dense(name: str, bits: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    count = shape.numel()
    if bits.ndim != 1 or values.ndim != 1 or bits.numel() != (count + 7) // 8 or values.numel() > count:
        raise ModelFormatError(f"{name}: {bits.numel()} bytes of bits and {values.numel()} values for {list(shape)}")
    if bits.is_meta:
        return torch.empty(shape, device="meta")
    if bits.dtype != torch.uint8 or not values.is_floating_point():
        raise ModelFormatError(f"{name}: bits of {bits.dtype} and values of {values.dtype}")
    kept = torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little")).bool()
    if int(kept.sum()) != values.numel():
        raise ModelFormatError(f"{name}: {int(kept.sum())} bits are set for {values.numel()} values")
    dense = torch.zeros(count, dtype=values.dtype)
    dense[kept] = values
    return dense.view(shape)
