"""Layers whose weights are stored in 16 bits and multiplied in 32.

Processors without kernels for 16 bits are slower with them; in an ONNX file the weights are converted once, when a
session starts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.layers import StoredLinear


class HalfLinear(StoredLinear):
    """A linear map with weights of 16 bits; the bias is float32."""

    halves: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.register_buffer("halves", linear.weight.detach().to(dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        return F.linear(input, self.matrix(), self.bias)

    def matrix(self) -> Tensor:
        """Return the weights as floats, `[out, in]`."""
        return self.halves.float()


class HalfEmbedding(nn.Module):
    """An embedding with rows of 16 bits."""

    halves: Tensor

    def __init__(self, table: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.weight.shape
        self.register_buffer("halves", table.weight.detach().to(dtype))

    @property
    def represented(self) -> int:
        """Return the number of weights."""
        return self.halves.numel()

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        return F.embedding(input, self.halves).float()

    def matrix(self) -> Tensor:
        """Return the rows as floats, `[rows, d]`."""
        return self.halves.float()
