"""Fake quantisation: layers that compute in float with values on an integer grid (Jacob et al. 2018).

Weights: per output row. Inputs: affine and unsigned, one range per layer; a moving average of the observed ranges until
it is frozen, or learned, or that of every call. An observed range is updated between steps, never within one, so that a
step is the same in however many parts it is computed. Word table: symmetric per row. Gradients are those of a clipped
straight-through estimator: 0 for values that were clipped.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.models.grid import ACTIVATION_HIGH, WeightGrid, affine_range, fake_quantize_rows, learned_rounding, positive
from lissom.models.integers import IntegerEmbedding, IntegerLinear
from lissom.models.layers import Indivisible

_MOMENTUM = 0.01

RangeOf = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Returns the low and the high bound, scalars, of the values of a tensor."""


def whole_range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return minimum and maximum."""
    return values.amin(), values.amax()


@dataclass(frozen=True)
class Rounding:
    """How a product is quantised."""

    weights: WeightGrid
    input_high: int = ACTIVATION_HIGH
    """The largest integer of an input."""
    dynamic: bool = False
    """Whether inputs have the range of every call; such a layer has nothing to observe."""
    smooth: bool = False
    """Whether every input feature is divided, and its weights multiplied, by a factor."""


class FakeQuantLinear(nn.Linear, Indivisible):
    """A Linear with fake-quantised inputs and weights; a plain Linear until its input range has been set."""

    low: Tensor
    high: Tensor
    observed: Tensor
    smoothing: Tensor | None

    def __init__(self, linear: nn.Linear, rounding: Rounding, mask_name: str = "attention_mask") -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.rounding = rounding
        self.mask_name = mask_name
        self.observer_enabled = False
        self.range_of: RangeOf = whole_range
        self.noise = 1.0
        """Share of the weights that a training step rounds (Fan et al. 2020, arXiv:2004.07320, §4.2)."""
        self.stochastic = False
        """Whether a training step rounds weights of 1 bit at random (Hubara et al. 2016, equation 2)."""
        self.real_tokens: Tensor | None = None
        self.pending_range: tuple[Tensor, Tensor] | None = None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("observed", torch.full((), rounding.dynamic))
        self.register_buffer("smoothing", torch.ones(linear.in_features) if rounding.smooth else None)
        self.weight_step: nn.Parameter | None = None
        self.input_step: nn.Parameter | None = None
        if rounding.weights.scale == "learned":
            self.weight_step = nn.Parameter(rounding.weights.scales(linear.weight))
            self.input_step = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if self.smoothing is not None:
            input = input / self.smoothing
        if self.observer_enabled and not self.rounding.dynamic:
            self._observe(input.detach())
        if not self.observed:
            return F.linear(input, self._smooth_weight(), self.bias)
        return F.linear(self._rounded_input(input), self._rounded_weight(), self.bias)

    def fit_weight_step(self) -> None:
        """Set the steps of the weights that a training is to learn to those that fit the weights as they are."""
        if self.weight_step is not None:
            self.weight_step.data.copy_(self.rounding.weights.scales(self._smooth_weight().detach()))

    def _smooth_weight(self) -> Tensor:
        # While a model is loaded, its weights alone are on the meta device.
        return self.weight if self.smoothing is None else self.weight * self.smoothing.to(self.weight.device)

    def _rounded_weight(self) -> Tensor:
        weight = self._smooth_weight()
        if self.stochastic and self.training:
            return self._drawn(weight)
        rounded = self.rounding.weights.fake(weight, self._scales(weight))
        if self.noise < 1 and self.training:
            return torch.where(torch.rand_like(weight) < self.noise, rounded, weight)
        return rounded

    def _drawn(self, weight: Tensor) -> Tensor:
        """Return +scale with probability clip((w / scale + 1) / 2, 0, 1), else -scale."""
        scales = self._scales(weight)[:, None]
        positive = torch.rand_like(weight) < ((weight.detach() / scales + 1) / 2).clamp(0, 1)
        drawn = torch.where(positive, scales, -scales)
        return torch.where(weight.abs() <= 1, weight + (drawn - weight).detach(), drawn)

    def _scales(self, weight: Tensor) -> Tensor:
        return self.rounding.weights.scales(weight) if self.weight_step is None else self.weight_step

    def _rounded_input(self, input: Tensor) -> Tensor:
        high = self.rounding.input_high
        if self.rounding.dynamic:
            scale, zero_point = affine_range(*whole_range(input.detach()), high)
        else:
            scale, zero_point = affine_range(self.low, self.high, high)
        if self.input_step is not None:
            return learned_rounding(input, self.input_step, -int(zero_point), high - int(zero_point))
        return torch.fake_quantize_per_tensor_affine(input, scale, zero_point, 0, high)

    def _observe(self, input: Tensor) -> None:
        mask = self.real_tokens
        values = input[mask] if mask is not None and input.shape[:-1] == mask.shape else input
        low, high = self.range_of(values)
        if self.pending_range is not None:
            low, high = torch.minimum(low, self.pending_range[0]), torch.maximum(high, self.pending_range[1])
        self.pending_range = low, high

    def update_range(self) -> None:
        """Move the input range towards the range observed since the last update; a learned one is set once."""
        if self.pending_range is None:
            return
        if self.input_step is None or not self.observed:
            weight = _MOMENTUM if self.observed else 1.0
            self.low.lerp_(self.pending_range[0], weight)
            self.high.lerp_(self.pending_range[1], weight)
            if self.input_step is not None:
                scale, _ = affine_range(self.low, self.high, self.rounding.input_high)
                self.input_step.data.copy_(scale)
        self.observed.fill_(True)
        self.pending_range = None

    def matrix(self) -> Tensor:
        """Return the weights that inputs are multiplied with, `[out, in]`."""
        return self._rounded_weight() if self.observed else self._smooth_weight()

    def converted(self) -> IntegerLinear:
        """Return the layer that computes with integers on the same quantisation grids."""
        assert self.weight.is_meta or bool(self.observed), "the input range must be observed before conversion"
        weight, high = self._smooth_weight(), self.rounding.input_high
        scales = positive(self._scales(weight).detach().float())
        scale, zero_point = affine_range(self.low, self.high, high)
        if self.input_step is not None:
            scale = positive(self.input_step.detach())
        return IntegerLinear(
            self.rounding.weights.integers(weight, scales), scales, self.bias,
            inputs=None if self.rounding.dynamic else (scale, zero_point), input_high=high, smoothing=self.smoothing,
        )  # fmt: skip


class FakeQuantEmbedding(nn.Embedding):
    """An embedding whose rows are rounded, each with its own scale."""

    def __init__(self, table: nn.Embedding, high: int) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx, device="meta")
        self.weight = table.weight
        self.high = high

    def forward(self, input: Tensor) -> Tensor:
        """Map ids `[...]` to vectors `[..., d]`."""
        vectors = super().forward(input)
        rows = vectors.flatten(0, -2)
        return fake_quantize_rows(rows, self.high).view_as(vectors)

    def matrix(self) -> Tensor:
        """Return the rounded rows, `[rows, d]`."""
        return fake_quantize_rows(self.weight, self.high)

    def converted(self) -> IntegerEmbedding:
        """Return the embedding with integer rows."""
        return IntegerEmbedding.of(self.weight, self.high)
