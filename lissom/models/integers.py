"""Layers that compute with integers: int8 weights, uint8 inputs, int8 tables.

In torch the layers give exactly the results of the exported kernels (integers in float64). In an ONNX export they
emit onnxruntime's kernels: `MatMulIntegerToFloat` takes uint8 inputs and int8 weights, accumulates in int32 and scales.
Weights of fewer bits are int8 here too; files store them packed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.grid import ACTIVATION_HIGH, affine_range, row_scales
from lissom.models.layers import StoredLinear


class IntegerLinear(StoredLinear):
    """y = s_x s_w (sum (q_x - z_x) q_w) + b, with q_x unsigned and q_w int8 (Jacob et al. 2018, §2.2).

    Args:
        weight: the integers, `[out, in]` int8.
        scales: of the rows, `[out]`.
        bias: `[out]`, or None.
        inputs: scale and zero point of the inputs, scalars; None takes the range of every call, over all its values.
        input_high: the largest integer of an input.
        smoothing: what every input feature is divided by, `[in]`; the weights are multiplied with it already.
    """

    integers: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    smoothing: Tensor | None
    bias: Tensor | None
    computes_with_integers = True

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        bias: Tensor | None,
        *,
        inputs: tuple[Tensor, Tensor] | None,
        input_high: int = ACTIVATION_HIGH,
        smoothing: Tensor | None = None,
    ) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        self.input_high = input_high
        self.register_buffer("integers", weight.T.contiguous())  # [in, out], as MatMul wants it
        self.register_buffer("weight_scale", scales.detach().clone())
        zeros = torch.zeros(len(scales), dtype=torch.int8, device=weight.device)
        self.register_buffer("weight_zero_point", zeros)
        self.register_buffer("input_scale", None if inputs is None else inputs[0])
        self.register_buffer("input_zero_point", None if inputs is None else inputs[1].to(torch.uint8))
        self.register_buffer("smoothing", None if smoothing is None else smoothing.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if not torch.onnx.is_in_onnx_export():
            return self._reference(input)
        integers, scale, zero_point = self._emit_quantised(input)
        operands = (integers, self.integers, scale, self.weight_scale, zero_point, self.weight_zero_point, self.bias)
        output: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            operands if self.bias is not None else operands[:-1],
            dtype=torch.float32,
            shape=(*input.shape[:-1], self.out_features),
            version=1,
        )
        return output

    def _emit_quantised(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Emit the quantisation of the inputs; return integers, scale and zero point."""
        if self.input_scale is None or self.input_zero_point is None:
            integers, scale, zero_point = torch.onnx.ops.symbolic_multi_out(
                "DynamicQuantizeLinear",
                (input,),
                dtypes=(torch.uint8, torch.float32, torch.uint8),
                shapes=(input.shape, (), ()),
            )
            return integers, scale, zero_point
        if self.smoothing is not None:
            input = input / self.smoothing
        if self.input_high < ACTIVATION_HIGH:  # the kernel saturates at 255
            input = torch.minimum(input, (self.input_high - self.input_zero_point.float()) * self.input_scale)
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (input, self.input_scale, self.input_zero_point), dtype=torch.uint8, shape=input.shape
        )
        return integers, self.input_scale, self.input_zero_point

    def _reference(self, input: Tensor) -> Tensor:
        if self.smoothing is not None:
            input = input / self.smoothing
        if self.input_scale is None or self.input_zero_point is None:
            scale, zero = affine_range(input.amin(), input.amax(), self.input_high)
        else:
            scale, zero = self.input_scale, self.input_zero_point
        zero_point = zero.double()
        integers = ((input / scale).round().double() + zero_point).clamp(0, self.input_high)
        sums = (integers - zero_point) @ self.integers.double()
        output = (sums * (scale.double() * self.weight_scale.double())).to(input.dtype)
        return output if self.bias is None else output + self.bias

    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]`."""
        return self.integers.T.float() * self.weight_scale[:, None]


class IntegerEmbedding(nn.Module):
    """An embedding of int8 rows with one scale each; only the rows that are looked up are converted to floats.

    Args:
        rows: the integers, `[rows, d]` int8.
        scales: of the rows, `[rows, 1]`.
    """

    rows: Tensor
    scales: Tensor

    def __init__(self, rows: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = rows.shape
        self.register_buffer("rows", rows)
        self.register_buffer("scales", scales)

    @classmethod
    def of(cls, weight: Tensor, high: int) -> "IntegerEmbedding":
        """Round every row of `weight` `[rows, d]` to -high..high."""
        scales = row_scales(weight, high)
        integers = (weight.detach() / scales[:, None]).round().clamp(-high, high)
        return cls(integers.to(torch.int8), scales[:, None])

    @property
    def represented(self) -> int:
        """Return the number of weights that the integers stand for."""
        return self.rows.numel()

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        return F.embedding(input, self.rows).to(self.scales.dtype) * F.embedding(input, self.scales)

    def matrix(self) -> Tensor:
        """Return the rows as floats, `[rows, d]`."""
        return self.rows.to(self.scales.dtype) * self.scales
