"""Weights in groups: small integers with a scale and a zero point for every few inputs of a row.

Inputs stay floats. In an ONNX export the weights are unpacked when a session starts, or `MatMulNBits` multiplies with
packed ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.models.layers import StoredLinear

_SMALLEST_SCALE = 1e-8
_RATIOS = torch.linspace(0.5, 1.0, 41)
_SMALLEST_HALF = 2.0**-24
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class GroupGrid:
    """An affine grid for every group of inputs of a row; 0 is exactly representable.

    Integers q and zero points z lie in -2^(b-1) to 2^(b-1) - 1, a weight is s (q - z). Scales are halves (float16).
    """

    bits: int
    group: int
    """Inputs that share a scale; of a layer whose inputs it does not divide, the largest divisor below it, or the next
    one above it where that would be less than a quarter of `group`: scales would outweigh the integers."""
    clip: bool = False
    """Whether the range of a group is the one with the least squared error, instead of the whole one."""

    def size(self, in_features: int) -> int:
        """Return the number of inputs in a group of a layer."""
        divisors = [size for size in range(1, in_features + 1) if in_features % size == 0]
        below = max(size for size in divisors if size <= self.group)
        return below if 4 * below >= min(self.group, in_features) else min(s for s in divisors if s > self.group)

    @property
    def low(self) -> int:
        """Return the smallest integer."""
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        """Return the largest integer."""
        return (1 << self.bits - 1) - 1

    def parameters(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return scales and zero points `[...]` of groups `[..., size]`."""
        low, high = weight.amin(-1).clamp(max=0), weight.amax(-1).clamp(min=0)
        if not self.clip:
            return self._affine(low, high)
        best, least = self._affine(low, high), torch.full_like(low, float("inf"))
        for ratio in _RATIOS.to(weight.device, weight.dtype):
            scales, zeros = self._affine(low * ratio, high * ratio)
            error = (self.floats(self.integers(weight, scales, zeros), scales, zeros) - weight).square().sum(-1)
            best = (torch.where(error < least, scales, best[0]), torch.where(error < least, zeros, best[1]))
            least = torch.minimum(error, least)
        return best

    def _affine(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        scales = ((high - low) / (2**self.bits - 1)).clamp(_SMALLEST_SCALE, _HALF_MAX)
        # Rounded as they are stored, before the integers are found with them; a subnormal half may be 0.
        scales = scales.half().to(low.dtype).clamp_min(_SMALLEST_HALF)
        return scales, (self.low - low / scales).round().clamp(self.low, self.high)

    def integers(self, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        """Return the integers, as floats, of groups `[..., size]`."""
        return (weight / scales[..., None] + zeros[..., None]).round().clamp(self.low, self.high)

    def floats(self, integers: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        """Return the weights that integers `[..., size]` stand for."""
        return (integers - zeros[..., None]) * scales[..., None]

    def rounded(self, weight: Tensor) -> Tensor:
        """Return a weight `[out, in]` rounded to its grid."""
        groups = weight.reshape(len(weight), -1, self.size(weight.shape[1]))
        parameters = self.parameters(groups)
        return self.floats(self.integers(groups, *parameters), *parameters).flatten(1)


def has_packed_kernel(bits: int, group: int) -> bool:
    """Return whether onnxruntime multiplies with packed weights of that kind."""
    return bits in (2, 4, 8) and group >= 16 and group & (group - 1) == 0


class GroupedLinear(StoredLinear):
    """A linear map whose weights are integers in groups.

    Args:
        integers: `[out, in]` int8.
        scales: `[out, groups]` float16.
        zeros: `[out, groups]` int8.
        bias: `[out]`, or None.
        smoothing: what the weights of every input are multiplied with before rounding, and divided by after it,
            `[in]`; None for ones.
        bits: bits of the integers.
        packed: whether an exported graph multiplies with packed weights.
        correction: B `[out, r]` and A `[r, in]`, whose product is added to the weights, in float16 (Yao et al. 2023,
            arXiv:2303.08302, §5); None for nothing.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor
    smoothing: Tensor | None
    bias: Tensor | None
    second: Tensor | None
    first: Tensor | None

    def __init__(
        self,
        integers: Tensor,
        scales: Tensor,
        zeros: Tensor,
        bias: Tensor | None,
        *,
        smoothing: Tensor | None,
        bits: int,
        packed: bool,
        correction: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(integers.shape[1], integers.shape[0])
        self.bits, self.packed = bits, packed
        self.register_buffer("integers", integers)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)
        self.register_buffer("smoothing", smoothing)
        self.register_buffer("bias", bias)
        for name, factor in zip(("second", "first"), correction or (None, None), strict=True):
            self.register_buffer(name, None if factor is None else factor.detach().half())

    @property
    def group(self) -> int:
        """Return the number of inputs that share a scale."""
        return self.in_features // self.scales.shape[1]

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if not (self.packed and has_packed_kernel(self.bits, self.group) and torch.onnx.is_in_onnx_export()):
            return F.linear(input, self.matrix(), self.bias)
        output: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",  # its operands are packed by `lissom.export.packing`
            (
                input if self.smoothing is None else input / self.smoothing,
                self.integers, self.scales.float(), self.zeros,
            ),
            {"K": self.in_features, "N": self.out_features, "bits": self.bits, "block_size": self.group},
            dtype=torch.float32,
            shape=(*input.shape[:-1], self.out_features),
            version=1,
        )  # fmt: skip
        if self.first is not None and self.second is not None:
            output = output + F.linear(F.linear(input, self.first.float()), self.second.float())
        return output if self.bias is None else output + self.bias

    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]`, with the correction."""
        if self.first is None or self.second is None:
            return self.rounded()
        return self.rounded() + self.second.float() @ self.first.float()

    def rounded(self) -> Tensor:
        """Return what the integers stand for, `[out, in]`."""
        groups = self.integers.reshape(self.out_features, -1, self.group).float() - self.zeros[..., None].float()
        weight: Tensor = (groups * self.scales[..., None].float()).flatten(1)
        return weight if self.smoothing is None else weight / self.smoothing
