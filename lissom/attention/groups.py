"""Views of sequences as groups of tokens, padded to whole groups.

Sizes may be symbolic, since the same code is traced for exports.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lissom.attention.dense import AttentionInputs, Part, is_exporting


def shorter(size: int, length: int) -> int:
    """Return the smaller of two sizes, at least 1."""
    if is_exporting():
        smaller: int = torch.sym_min(size, length)  # type: ignore[no-untyped-call]
        return smaller
    return max(1, min(size, length))


def count_blocks(length: int, size: int) -> int:
    """Return the number of blocks of a sequence, the last of which may be shorter."""
    return (length + size - 1) // size


def blocks_of(tensor: Tensor, size: int) -> Tensor:
    """Return the blocks of `[batch, heads, n, d]` as `[batch, heads, blocks, size, d]`, the last one padded with 0."""
    batch, heads, length, width = tensor.shape
    blocks = count_blocks(length, size)
    padded = functional.pad(tensor, (0, 0, 0, blocks * size - length)) if is_exporting() or length % size else tensor
    return padded.reshape(batch, heads, blocks, size, width)


def real_tokens(inputs: AttentionInputs) -> Tensor:
    """Return which tokens are real, `[batch or 1, n]`."""
    if inputs.real is not None:
        return inputs.real
    return torch.ones(1, inputs.length, dtype=torch.bool, device=inputs.query.device)


def real_blocks(inputs: AttentionInputs, size: int) -> Tensor | None:
    """Return which tokens of blocks are real, `[batch or 1, blocks, size]`; None if all that a query sees are.

    The rest of the last block follows all tokens, so that causal attention does not see it.
    """
    if inputs.real is None and (inputs.causal or (not is_exporting() and inputs.length % size == 0)):
        return None
    real = real_tokens(inputs)
    blocks = count_blocks(inputs.length, size)
    return functional.pad(real, (0, blocks * size - inputs.length)).reshape(real.shape[0], blocks, size)


def ungrouped(part: Part, length: int) -> Part:
    """Return the result of blocks as that of their sequence of `length` tokens."""
    output, lse = part.output.flatten(2, 3)[:, :, :length], part.lse
    return Part(output, None if lse is None else lse.flatten(2, 3)[:, :, :length])


def join(parts: Sequence[Part]) -> Part:
    """Return the parts of consecutive queries as one."""
    if len(parts) == 1:
        return parts[0]
    sums = [part.lse for part in parts if part.lse is not None]
    return Part(torch.cat([part.output for part in parts], 2), torch.cat(sums, 2) if sums else None)
