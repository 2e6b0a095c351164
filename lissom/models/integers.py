"""Layers that compute with integers: int8 weights, uint8 inputs, int8 tables.

In torch the layers give exactly the results of the exported kernels (integers in float64). In an ONNX export they
emit onnxruntime's kernels: `MatMulIntegerToFloat` takes uint8 inputs and int8 weights, accumulates in int32 and scales.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.grid import ACTIVATION_HIGH, TABLE_HIGH, row_scales


class IntegerLinear(nn.Module):
    """y = s_x s_w (sum (q_x - z_x) q_w) + b, with q_x uint8 and q_w int8 (Jacob et al. 2018, §2.2)."""

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, high: int, scale: Tensor, zero_point: Tensor) -> None:
        """Round `weight` `[out, in]` to -high..high per row; scale and zero point are the inputs'."""
        super().__init__()
        weight_scale = row_scales(weight, high)
        integers = (weight.detach() / weight_scale[:, None]).round().clamp(-high, high)
        self.register_buffer("weight", integers.to(torch.int8).T.contiguous())  # [in, out], as MatMul wants it
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("weight_zero_point", torch.zeros(len(weight_scale), dtype=torch.int8))
        self.register_buffer("input_scale", scale)
        self.register_buffer("input_zero_point", zero_point.to(torch.uint8))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if not torch.onnx.is_in_onnx_export():
            return self._reference(input)
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (input, self.input_scale, self.input_zero_point), dtype=torch.uint8, shape=input.shape
        )
        operands = (
            integers, self.weight, self.input_scale, self.weight_scale,
            self.input_zero_point, self.weight_zero_point, self.bias,
        )  # fmt: skip
        output: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            operands if self.bias is not None else operands[:-1],
            dtype=torch.float32,
            shape=(*input.shape[:-1], self.weight.shape[1]),
            version=1,
        )
        return output

    def _reference(self, input: Tensor) -> Tensor:
        zero_point = self.input_zero_point.double()
        integers = ((input / self.input_scale).round().double() + zero_point).clamp(0, ACTIVATION_HIGH)
        sums = (integers - zero_point) @ self.weight.double()
        output = (sums * (self.input_scale.double() * self.weight_scale.double())).to(input.dtype)
        return output if self.bias is None else output + self.bias


class IntegerEmbedding(nn.Module):
    """An embedding of int8 rows with one scale each; only the rows that are looked up are converted to floats."""

    rows: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Round every row of `weight` `[rows, d]`."""
        super().__init__()
        scales = row_scales(weight, TABLE_HIGH)
        integers = (weight.detach() / scales[:, None]).round().clamp(-TABLE_HIGH, TABLE_HIGH)
        self.register_buffer("rows", integers.to(torch.int8))
        self.register_buffer("scales", scales[:, None])

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        return F.embedding(input, self.rows).to(self.scales.dtype) * F.embedding(input, self.scales)
