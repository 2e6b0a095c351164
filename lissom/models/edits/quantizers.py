"""Fake quantisation: layers that compute in float with values on an integer grid (Jacob et al. 2018).

Weights: symmetric per output row; the scale is computed from the row in every step. Inputs: affine, unsigned 8-bit;
one range per layer, a moving average of the observed ranges until it is frozen. The range is updated between steps,
never within one, so that a step is the same in however many parts it is computed. Word table: symmetric 8-bit per row.
Gradients are those of a clipped straight-through estimator: 0 for values that were clipped.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.word_table import rows_of
from lissom.models.families import classifier_of, family_of
from lissom.models.grid import ACTIVATION_HIGH, TABLE_HIGH, affine_range, fake_quantize_rows, weight_high
from lissom.models.integers import IntegerEmbedding, IntegerLinear
from lissom.models.layers import Indivisible
from lissom.models.sites import attention_sites, replace_module, tied_head

_MOMENTUM = 0.01


class FakeQuantLinear(nn.Linear, Indivisible):
    """A Linear with fake-quantised inputs and weights; a plain Linear until its input range has been set."""

    low: Tensor
    high: Tensor
    observed: Tensor

    def __init__(self, linear: nn.Linear, weight_bits: int, mask_name: str = "attention_mask") -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_high = weight_high(weight_bits)
        self.mask_name = mask_name
        self.observer_enabled = False
        self.real_tokens: Tensor | None = None
        self.pending_range: tuple[Tensor, Tensor] | None = None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("observed", torch.zeros((), dtype=torch.bool))

    def forward(self, input: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]`."""
        if self.observer_enabled:
            self._observe(input.detach())
        if not self.observed:
            return F.linear(input, self.weight, self.bias)
        scale, zero_point = affine_range(self.low, self.high)
        quantized_input = torch.fake_quantize_per_tensor_affine(input, scale, zero_point, 0, ACTIVATION_HIGH)
        return F.linear(quantized_input, fake_quantize_rows(self.weight, self.weight_high), self.bias)

    def _observe(self, input: Tensor) -> None:
        mask = self.real_tokens
        values = input[mask] if mask is not None and input.shape[:-1] == mask.shape else input
        low, high = values.amin(), values.amax()
        if self.pending_range is not None:
            low, high = torch.minimum(low, self.pending_range[0]), torch.maximum(high, self.pending_range[1])
        self.pending_range = low, high

    def update_range(self) -> None:
        """Move the input range towards the range observed since the last update."""
        if self.pending_range is None:
            return
        weight = _MOMENTUM if self.observed else 1.0
        self.low.lerp_(self.pending_range[0], weight)
        self.high.lerp_(self.pending_range[1], weight)
        self.observed.fill_(True)
        self.pending_range = None

    def converted(self) -> IntegerLinear:
        """Return the layer that computes with integers on the same quantisation grids."""
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
        """Return the embedding with int8 rows."""
        return IntegerEmbedding(self.weight)


class FakeQuantize(StructureEdit):
    """Fake-quantise the word table and all matrix products except those that return logits; the weights stay floats."""

    kind: Literal["fake_quantize"] = "fake_quantize"
    weight_bits: Literal[7, 8] = 7

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; the input ranges must be observed, or loaded, afterwards."""
        family, outputs = family_of(network), (classifier_of(network), tied_head(network))
        table = network.get_submodule(rows_of(network, family.word_table))
        written = _reading_targets(network)
        for path, module in list(network.named_modules()):
            # A tied head returns logits, and uses the floats of the word table.
            is_output = path in outputs or (path.startswith("exits.") and path.endswith(".classifier"))
            if type(module) is nn.Linear and not is_output:
                mask = "decoder_attention_mask" if path in written else "attention_mask"
                replace_module(network, path, FakeQuantLinear(module, self.weight_bits, mask).train(module.training))
            # Positions and segments are a few rows. Encoder and decoder may share the rows of words.
            elif type(module) is nn.Embedding and module.weight is table.weight:
                replace_module(network, path, FakeQuantEmbedding(module))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"{self.weight_bits}-bit weights, uint8 inputs, int8 word table (simulated in torch, real in the export)"


def _reading_targets(network: PreTrainedModel) -> set[str]:
    """Return the paths of a decoder's layers whose inputs belong to the tokens that it writes, not to the text's."""
    family = family_of(network)
    if not family.has_encoder_and_decoder:
        return set()
    blocks = f"{family.stacks[-1].blocks}."
    of_text = {path for site in attention_sites(network) if site.kind == "cross" for path in (site.key, site.value)}
    return {path for path, _ in network.named_modules() if path.startswith(blocks) and path not in of_text}
