"""Types of GGUF files: the type of every tensor, by llama.cpp's rules.

A file type is a block format for most tensors; the mixtures S, M and L give more bits to those that need them most: the
output projection, the values of attention, and the second product of the feed-forward network in some blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from lissom.gguf.config import FileTypeName

Importance = Mapping[str, NDArray[np.float32]]
"""Weights of the columns of tensors, `[in]`: the mean squares of the inputs that they are multiplied with."""

_FALLBACKS = {
    Kind.Q2_K: Kind.Q4_0, Kind.Q3_K: Kind.Q4_0, Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0,
}  # fmt: skip
"""For rows that are no multiple of 256."""
_FLOATS = (Kind.F32, Kind.F16, Kind.BF16)


@dataclass(frozen=True)
class FileType:
    """A type of file, with its number in the file's header."""

    name: FileTypeName
    number: gguf.LlamaFileType
    kind: Kind
    """Type of most tensors."""

    @property
    def is_float(self) -> bool:
        """Return whether nothing is quantised."""
        return self.kind in _FLOATS


_KINDS: dict[FileTypeName, Kind] = {
    "f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0, "q6_k": Kind.Q6_K, "q5_k_m": Kind.Q5_K,
    "q5_k_s": Kind.Q5_K, "q5_1": Kind.Q5_1, "q5_0": Kind.Q5_0, "q4_k_m": Kind.Q4_K, "q4_k_s": Kind.Q4_K,
    "q4_1": Kind.Q4_1, "q4_0": Kind.Q4_0, "q3_k_l": Kind.Q3_K, "q3_k_m": Kind.Q3_K, "q3_k_s": Kind.Q3_K,
    "q2_k": Kind.Q2_K,
}  # fmt: skip


def _number(name: str) -> gguf.LlamaFileType:
    return gguf.LlamaFileType["ALL_F32" if name == "f32" else f"MOSTLY_{name.upper()}"]


FILE_TYPES: dict[FileTypeName, FileType] = {name: FileType(name, _number(name), kind) for name, kind in _KINDS.items()}


def type_of(
    name: str, shape: tuple[int, ...], file_type: FileType, blocks: int, *, is_tied: bool, gqa: int,
    has_importance: bool,
) -> Kind:  # fmt: skip
    """Return the type of a tensor.

    Args:
        name: the tensor's name.
        shape: its shape; blocks of a format lie along the last axis.
        file_type: the file's type.
        blocks: number of Transformer blocks.
        is_tied: whether the word table is the output projection too.
        gqa: query heads per key/value head.
        has_importance: whether the file is written with importances.
    """
    if len(shape) < 2 or name in ("position_embd.weight", "token_types.weight"):
        return Kind.F32
    if file_type.is_float:
        return file_type.kind
    kind = _mixed(name, file_type, blocks, is_tied=is_tied, gqa=gqa, has_importance=has_importance)
    if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _FALLBACKS.get(kind, Kind.F16)
        if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = Kind.F16
    return kind


def _mixed(name: str, file_type: FileType, blocks: int, *, is_tied: bool, gqa: int, has_importance: bool) -> Kind:
    """Return the type that llama.cpp's mixture gives to a tensor of fitting width."""
    kind, default = file_type.name, file_type.kind
    if name == "output.weight" or (is_tied and name == "token_embd.weight"):
        return default if default == Kind.Q8_0 else Kind.Q6_K
    parts = name.split(".")
    if parts[0] != "blk":
        return default
    block, eighth = int(parts[1]), blocks // 8
    is_first = block < eighth
    more = is_first or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2
    of_part: dict[str, dict[FileTypeName, Kind]] = {
        "attn_v": {
            "q2_k": Kind.Q4_K if gqa >= 4 else Kind.Q3_K,
            "q3_k_m": Kind.Q5_K if block < 2 else Kind.Q4_K,
            "q3_k_l": Kind.Q5_K,
            **({"q4_k_m": Kind.Q6_K, "q5_k_m": Kind.Q6_K} if more else {}),
            **({"q4_k_s": Kind.Q5_K} if block < 4 else {}),
        },
        "ffn_down": {
            "q2_k": Kind.Q3_K,
            "q3_k_m": Kind.Q5_K if block < blocks // 16 else Kind.Q4_K,
            "q3_k_l": Kind.Q5_K,
            **({"q4_k_m": Kind.Q6_K, "q5_k_m": Kind.Q6_K} if more else {}),
            **({"q4_k_s": Kind.Q5_K} if is_first else {}),
            **({"q4_0": Kind.Q4_1, "q5_0": Kind.Q5_1} if is_first and has_importance else {}),
        },
        "attn_output": {"q2_k": Kind.Q3_K, "q3_k_m": Kind.Q4_K, "q3_k_l": Kind.Q5_K},
    }  # fmt: skip
    return of_part.get("attn_v" if parts[2] == "attn_qkv" else parts[2], {}).get(kind, default)
