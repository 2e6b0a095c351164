"""Encoding of tensors in llama.cpp's block formats, by llama.cpp's own function.

`ggml_quantize_chunk` is a function of ggml's public C interface; the package xllamacpp carries a build of it. It takes
the importance of every column, and it is the encoder of K-quants, which the package gguf only decodes.
"""

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from lissom.errors import InputError, advice_for
from lissom.serving.cores import usable_cores

_ENGINE = "xllamacpp"
_WORTH_A_THREAD = 100_000
"""Weights that take a thread some milliseconds."""


def encode(
    tensor: NDArray[np.float32], kind: Kind, importance: NDArray[np.float32] | None = None
) -> NDArray[np.generic]:
    """Return a tensor `[..., in]` in a format: floats, or bytes `[..., bytes per row]`.

    Args:
        tensor: the tensor; `in` is a multiple of the format's block size.
        kind: the format.
        importance: non-negative weights of the squared errors of the columns, `[in]`.

    Raises:
        InputError: the package that encodes is missing, or the tensor has values that are not finite.
    """
    if kind == Kind.F32:
        return tensor
    if not np.isfinite(tensor).all():
        raise InputError("export.formats gguf: a tensor has values that are not finite")
    if kind == Kind.F16:
        return tensor.astype(np.float16)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(tensor.reshape(-1, tensor.shape[-1]), dtype=np.float32)
    result = np.empty((*tensor.shape[:-1], tensor.shape[-1] // block * size), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    assert weights is None or weights.shape == (rows.shape[1],)
    function = _quantize_chunk()

    def write(part: range) -> int:
        written: int = function(
            int(kind), rows.ctypes.data, result.ctypes.data, part.start * rows.shape[1], len(part), rows.shape[1],
            None if weights is None else weights.ctypes.data,
        )  # fmt: skip
        return written

    with ThreadPoolExecutor(usable_cores()) as threads:  # ctypes lets go of the interpreter's lock
        written = sum(threads.map(write, _parts(len(rows), rows.size)))
    assert written == result.nbytes
    return result


def _parts(rows: int, size: int) -> list[range]:
    """Return contiguous parts of rows that are worth a thread."""
    count = max(1, min(usable_cores(), rows, size // _WORTH_A_THREAD))
    bounds = [rows * number // count for number in range(count + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


@cache
def _quantize_chunk() -> "ctypes._FuncPointer":
    """Return ggml's function, with the types of its arguments."""
    spec = importlib.util.find_spec(f"{_ENGINE}.{_ENGINE}") if importlib.util.find_spec(_ENGINE) else None
    if spec is None or spec.origin is None:
        raise InputError(f"export.formats gguf: {advice_for(ModuleNotFoundError(name=_ENGINE))}")
    try:
        function = ctypes.CDLL(spec.origin).ggml_quantize_chunk
    except AttributeError:
        raise InputError(
            f"export.formats gguf: the package {_ENGINE} for this system does not hand out ggml's encoder; "
            "export on Linux"
        ) from None
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return function
