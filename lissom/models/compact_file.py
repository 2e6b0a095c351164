"""Compact forms of tensors in a file of weights, all lossless.

- Sparse: a bit for every weight, and the values that are not zero. A tensor NAME becomes NAME.bits (uint8, eight
  weights each, the lowest bit first, in the order of rows) and NAME.values. Of float32, the pair is smaller than the
  tensor if more than 1 in 32 are zeros.
- Packed: int8 tensors whose values fit into 1 to 4 bits. NAME becomes NAME.int1 to NAME.int4, the bytes of its planes
  one after the other (`lissom.models.packing`).

The shape is that of the layer.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lissom.errors import ModelFormatError
from lissom.models.packing import PLANES, narrowest, pack, packed_sizes, unpack

_BITS, _VALUES = ".bits", ".values"
_PACKED = {f".int{bits}": bits for bits in PLANES}


def encoded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state whose matrices have the smallest form."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        result |= _packed(name, tensor) if tensor.dtype == torch.int8 else _sparse(name, tensor)
    return result


def decoded(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return a state with dense tensors only; on the meta device, sizes alone are looked at.

    Args:
        state: the tensors of a file.
        shapes: the shape of every tensor of the network.

    Raises:
        ModelFormatError: the parts of a tensor do not fit each other or the shape.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        whole, _, ending = name.rpartition(".")
        if f".{ending}" in _PACKED and whole in shapes:
            result[whole] = _unpacked(whole, tensor, _PACKED[f".{ending}"], shapes[whole])
        elif f".{ending}" in (_BITS, _VALUES) and all(f"{whole}{part}" in state for part in (_BITS, _VALUES)):
            if whole not in shapes:
                result[whole] = tensor  # of no tensor of the network, which the caller tells
            elif f".{ending}" == _BITS:
                result[whole] = _dense(whole, tensor, state[f"{whole}{_VALUES}"], shapes[whole])
        else:
            result[name] = tensor
    return result


def _packed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    integers = tensor.numpy()
    bits = narrowest(integers)
    if bits not in PLANES or tensor.ndim < 2:
        return {name: tensor}
    return {f"{name}.int{bits}": torch.from_numpy(np.concatenate(pack(integers, bits)))}


def _sparse(name: str, tensor: Tensor) -> dict[str, Tensor]:
    kept = tensor != 0
    size = tensor.numel() // 8 + int(kept.sum()) * tensor.element_size()
    if tensor.ndim != 2 or not tensor.is_floating_point() or size >= tensor.numel() * tensor.element_size():
        return {name: tensor}
    bits = np.packbits(kept.flatten().numpy(), bitorder="little")
    return {f"{name}{_BITS}": torch.from_numpy(bits), f"{name}{_VALUES}": tensor[kept]}


def _unpacked(name: str, packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    sizes = packed_sizes(bits, shape.numel())
    if packed.ndim != 1 or packed.numel() != sum(sizes):
        raise ModelFormatError(f"{name}: {packed.numel()} bytes for {list(shape)} integers of {bits} bits")
    if packed.is_meta:
        return torch.empty(shape, device="meta")
    if packed.dtype != torch.uint8:
        raise ModelFormatError(f"{name}: packed integers of {packed.dtype}")
    planes = np.split(packed.numpy(), np.cumsum(sizes)[:-1])
    return torch.from_numpy(unpack(planes, bits, shape.numel())).view(shape)


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
