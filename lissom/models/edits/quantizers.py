"""Fake quantisation: layers that compute in float with values that integers can hold (SPECS §3.1, §3.3).

Weights: symmetric per output row, scale from the row itself at every step. Inputs: affine, unsigned 8-bit, one
scale per layer that follows a moving average of the data until it is frozen; it moves between steps, never within
one, so that a step is the same in however many parts it is computed. Word table: symmetric 8-bit per row.
Gradients pass where a value was not clipped and stop where it was (clipped straight-through estimator).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.models.edits.word_table import rows_of
from lissom.models.families import family_of, replace_module
from lissom.section import Section

ACTIVATION_HIGH = 255
TABLE_HIGH = 127

_MOMENTUM = 0.01
_SMALLEST_SCALE = 1e-8


def weight_high(bits: int) -> int:
    """Return the largest integer of a symmetric b-bit weight: 2^(b-1) - 1."""
    return int(2 ** (bits - 1) - 1)


def row_scales(weight: Tensor, high: int) -> Tensor:
    """Return the scale of every row of `weight` `[rows, columns]`: max|w| / high, never 0. `[rows]`."""
    return (weight.detach().abs().amax(dim=-1) / high).clamp_min(_SMALLEST_SCALE)


def fake_quantize_rows(weight: Tensor, high: int) -> Tensor:
    """Round every row of `weight` `[rows, columns]` to its own symmetric grid of 2 high + 1 levels."""
    scales = row_scales(weight, high)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -high, high)


def affine_range(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale (float) and zero point (int32) of the 8-bit affine grid over [low, high], widened to hold 0."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / ACTIVATION_HIGH).clamp_min(_SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, ACTIVATION_HIGH).to(torch.int32)
    return scale, zero_point


class FakeQuantLinear(nn.Linear):
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


def quantized_layers(network: nn.Module) -> list[FakeQuantLinear]:
    """Return the layers that quantise their inputs."""
    return [module for module in network.modules() if isinstance(module, FakeQuantLinear)]


@contextmanager
def unobserved(layers: Iterable[FakeQuantLinear]) -> Iterator[None]:
    """Let layers run on what is not to be observed: values of no meaning, or the same ones again."""
    observing = [layer for layer in layers if layer.observing]
    for layer in observing:
        layer.observing = False
    try:
        yield
    finally:
        for layer in observing:
            layer.observing = True


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


class FakeQuantize(Section):
    """Quantise all matrix products but those that give the logits, and the word table; the weights stay floats."""

    kind: Literal["fake_quantize"] = "fake_quantize"
    weight_bits: Literal[7, 8] = 7

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; the input ranges are to be observed, or loaded, afterwards."""
        family = family_of(network)
        table = rows_of(network, family.word_table)
        for path, module in list(network.named_modules()):
            answers = path == family.classifier or (path.startswith("exits.") and path.endswith(".classifier"))
            if type(module) is nn.Linear and not answers:
                replace_module(network, path, FakeQuantLinear(module, self.weight_bits).train(module.training))
            elif type(module) is nn.Embedding and path == table:  # positions and segments are a few rows
                replace_module(network, path, FakeQuantEmbedding(module))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"{self.weight_bits}-bit weights, uint8 inputs, int8 word table (simulated in torch, real in the export)"
