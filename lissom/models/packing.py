"""Small integers in few bits: packed into bytes, and what every byte means.

The lowest bits of a byte hold the first value. Integers of 2 and 4 bits are two's complements; 1 bit is -1 or 1.
Integers of 3 bits lie in two planes, of 2 bits and of 1, since 3 does not divide 8.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Plane:
    """Some bits of every value."""

    bits: int
    shift: int
    """How many lower bits of the values are in other planes."""
    values: tuple[int, ...]
    """What every code means; the meanings of all planes are joined by a bitwise or."""

    @property
    def meanings(self) -> NDArray[np.int8]:
        """Return the values of every byte, `[256, values per byte]`."""
        codes = np.arange(256)[:, None] >> np.arange(0, 8, self.bits) & (1 << self.bits) - 1
        meanings: NDArray[np.int8] = np.asarray(self.values, dtype=np.int8)[codes]
        return meanings


PLANES: dict[int, tuple[Plane, ...]] = {
    1: (Plane(1, 0, (-1, 1)),),
    2: (Plane(2, 0, (0, 1, -2, -1)),),
    3: (Plane(2, 0, (0, 1, 2, 3)), Plane(1, 2, (0, -4))),
    4: (Plane(4, 0, (*range(8), *range(-8, 0))),),
}
"""The planes of integers of each number of bits."""


def narrowest(integers: NDArray[np.int8]) -> int:
    """Return the smallest number of bits that holds all values: 1 to 4, or 8."""
    if integers.size == 0:
        return 8
    if bool((np.abs(integers) == 1).all()):
        return 1
    low, high = int(integers.min()), int(integers.max())
    return next((bits for bits in (2, 3, 4) if -(1 << bits - 1) <= low and high < 1 << bits - 1), 8)


def pack(integers: NDArray[np.int8], bits: int) -> list[NDArray[np.uint8]]:
    """Return the bytes of every plane of some integers, which are read in the order of rows."""
    flat = integers.ravel()
    return [_packed(_codes(flat, plane, bits), plane.bits) for plane in PLANES[bits]]


def unpack(planes: list[NDArray[np.uint8]], bits: int, count: int) -> NDArray[np.int8]:
    """Return the integers, `[count]`, of the bytes of every plane."""
    result = np.zeros(count, dtype=np.int8)
    for plane, packed in zip(PLANES[bits], planes, strict=True):
        result |= plane.meanings[packed].ravel()[:count]
    return result


def pack_unsigned(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return the bytes of integers of -2^(b-1) to 2^(b-1) - 1, counted from the lowest, for b = 2, 4 or 8."""
    return _packed((integers.ravel().astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8), bits)


def packed_sizes(bits: int, count: int) -> list[int]:
    """Return the number of bytes of every plane of `count` integers."""
    return [-(-count * plane.bits // 8) for plane in PLANES[bits]]


def _codes(flat: NDArray[np.int8], plane: Plane, bits: int) -> NDArray[np.uint8]:
    if bits == 1:
        return (flat > 0).astype(np.uint8)
    codes: NDArray[np.uint8] = ((flat.view(np.uint8) >> plane.shift) & ((1 << plane.bits) - 1)).astype(np.uint8)
    return codes


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    per_byte = 8 // bits
    padded = np.zeros(-(-len(codes) // per_byte) * per_byte, dtype=np.uint8)
    padded[: len(codes)] = codes
    shifted = padded.reshape(-1, per_byte) << np.arange(0, 8, bits, dtype=np.uint8)
    result: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
    return result
