"""Fake quantisation: layers that compute in float with values that integers can hold (Jacob et al. 2018).

Weights: symmetric per output row, scale from the row itself at every step. Inputs: affine, unsigned 8-bit, one
scale per layer that follows a moving average of the data until it is frozen; it moves between steps, never within
one, so that a step is the same in however many parts it is computed. Word table: symmetric 8-bit per row.
Gradients pass where a value was not clipped and stop where it was (clipped straight-through estimator).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.word_table import rows_of
from lissom.models.families import family_of, replace_module, tied_head
from lissom.models.grid import ACTIVATION_HIGH, TABLE_HIGH, affine_range, fake_quantize_rows, weight_high
from lissom.models.integers import IntegerEmbedding, IntegerLinear
from lissom.models.layers import Indivisible

_MOMENTUM = 0.01


class FakeQuantLinear(nn.Linear, Indivisible):
    """A Linear on quantised inputs and weights; disabled until its input range has been observed, and settled."""

    low: Tensor
    high: Tensor
    observed: Tensor

    def __init__(self, linear: nn.Linear, weight_bits: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_high = weight_high(weight_bits)
        self.observing = False
        self.real_tokens: Tensor | None = None
        self.seen: tuple[Tensor, Tensor] | None = None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("observed", torch.zeros((), dtype=torch.bool))

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if self.observing:
            self._observe(input.detach())
        if not self.observed:
            return F.linear(input, self.weight, self.bias)
        scale, zero_point = affine_range(self.low, self.high)
        rounded = torch.fake_quantize_per_tensor_affine(input, scale, zero_point, 0, ACTIVATION_HIGH)
        return F.linear(rounded, fake_quantize_rows(self.weight, self.weight_high), self.bias)

    def _observe(self, input: Tensor) -> None:
        mask = self.real_tokens
        values = input[mask] if mask is not None and input.shape[:-1] == mask.shape else input
        low, high = values.amin(), values.amax()
        if self.seen is not None:
            low, high = torch.minimum(low, self.seen[0]), torch.maximum(high, self.seen[1])
        self.seen = low, high

    def settle(self) -> None:
        """Move the input range towards what has been seen since the last time."""
        if self.seen is None:
            return
        weight = _MOMENTUM if self.observed else 1.0
        self.low.lerp_(self.seen[0], weight)
        self.high.lerp_(self.seen[1], weight)
        self.observed.fill_(True)
        self.seen = None

    def converted(self) -> IntegerLinear:
        """Return the layer that computes with integers on the same grids."""
        assert bool(self.observed), "the input range must be observed before conversion"
        return IntegerLinear(self.weight, self.bias, self.weight_high, *affine_range(self.low, self.high))


class FakeQuantEmbedding(nn.Embedding):
    """An embedding whose rows are rounded to 8 bits, each with its own scale."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, device="meta")
        self.weight = table.weight

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        vectors = super().forward(input)
        rows = vectors.flatten(0, -2)
        return fake_quantize_rows(rows, TABLE_HIGH).view_as(vectors)

    def converted(self) -> IntegerEmbedding:
        """Return the embedding with rows of int8."""
        return IntegerEmbedding(self.weight)


class FakeQuantize(StructureEdit):
    """Quantise all matrix products but those that give the logits, and the word table; the weights stay floats."""

    kind: Literal["fake_quantize"] = "fake_quantize"
    weight_bits: Literal[7, 8] = 7

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; the input ranges are to be observed, or loaded, afterwards."""
        family, head = family_of(network), tied_head(network)
        table = rows_of(network, family.word_table)
        for path, module in list(network.named_modules()):
            # A tied head reads the table's own floats: its logits decide, and rounding them is the table's matter.
            answers = path in (family.classifier, head) or (path.startswith("exits.") and path.endswith(".classifier"))
            if type(module) is nn.Linear and not answers:
                replace_module(network, path, FakeQuantLinear(module, self.weight_bits).train(module.training))
            elif type(module) is nn.Embedding and path == table:  # positions and segments are a few rows
                replace_module(network, path, FakeQuantEmbedding(module))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"{self.weight_bits}-bit weights, uint8 inputs, int8 word table (simulated in torch, real in the export)"
