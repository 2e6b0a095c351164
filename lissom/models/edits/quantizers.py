"""Fake quantisation of products and of the word table."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.config import ScaleName
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.tables import replace_table, share_factors
from lissom.models.edits.word_table import rows_of
from lissom.models.fake_quant import FakeQuantEmbedding, FakeQuantLinear, Rounding
from lissom.models.families import classifier_of, family_of
from lissom.models.grid import WeightGrid, weight_high
from lissom.models.sites import reading_targets, replace_module, sharing_inputs, tied_head


class FakeQuantize(StructureEdit):
    """Fake-quantise the word table and the matrix products, by default but those that return logits.

    The weights stay floats. A head that is tied to the word table multiplies with the table's rounded rows.
    """

    kind: Literal["fake_quantize"] = "fake_quantize"
    weight_bits: Literal[1, 2, 3, 4, 7, 8] = 7
    weight_scale: ScaleName = "max"
    input_bits: Literal[4, 8] = 8
    inputs: Literal["static", "dynamic"] = "static"
    smooth: bool = False
    table_bits: Literal[4, 8] = 8
    keep: tuple[str, ...] = Field(default=(), max_length=1000)
    """Regular expressions over module paths: what matches one stays in floats."""
    logits: bool = False
    """Whether the products that return logits are among them."""

    @property
    def rounding(self) -> Rounding:
        """Return how products are rounded."""
        return Rounding(
            WeightGrid(self.weight_bits, self.weight_scale),
            2**self.input_bits - 1,
            self.inputs == "dynamic",
            self.smooth,
        )

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; the input ranges must be observed, or loaded, afterwards.

        Raises:
            InputError: a pattern of `keep` is no regular expression, or matches nothing.
        """
        kept = kept_layers(network, self.keep)
        quantised = [path for path in quantised_products(network, logits=self.logits) if path not in kept]
        table_path = rows_of(network, family_of(network).word_table)
        table, written = network.get_submodule(table_path), reading_targets(network)
        for path in quantised:
            module = network.get_submodule(path)
            assert isinstance(module, nn.Linear)
            mask = "decoder_attention_mask" if path in written else "attention_mask"
            replace_module(network, path, FakeQuantLinear(module, self.rounding, mask).train(module.training))
        for group in sharing_inputs(network, quantised):
            first, *others = (network.get_submodule(path) for path in group)
            for other in others:  # the kernel of an attention takes one quantised input for query, key and value
                other.input_step = first.input_step
        # Positions and segments are a few rows.
        if type(table) is nn.Embedding and table_path not in kept:
            replace_table(network, FakeQuantEmbedding(table, weight_high(self.table_bits)).train(table.training))
        share_factors(network)

    def describe(self) -> str:
        """Return the edit in a few words."""
        scale = {"max": "", "mse": " by least error", "learned": " with learned steps", "mean": " by their mean"}
        parts = [
            f"{self.weight_bits}-bit weights{scale[self.weight_scale]}",
            f"uint{self.input_bits} inputs{' with the range of every call' if self.inputs == 'dynamic' else ''}",
            f"int{self.table_bits} word table",
            *(["smoothed"] if self.smooth else []),
            *([f"{', '.join(self.keep)} in floats"] if self.keep else []),
            *(["logits too"] if self.logits else []),
        ]
        return ", ".join(parts)


def quantised_products(network: PreTrainedModel, *, logits: bool = False) -> list[str]:
    """Return the paths of the Linear layers that quantisation works on.

    Args:
        network: the network.
        logits: whether the products that return logits are among them; one that is tied to the word table never is.
    """
    output, tied = classifier_of(network), tied_head(network)
    return [
        path
        for path, module in network.named_modules()
        if type(module) is nn.Linear
        and path != tied
        and (logits or not (path == output or (path.startswith("exits.") and path.endswith(".classifier"))))
    ]


def kept_layers(network: PreTrainedModel, patterns: Sequence[str]) -> set[str]:
    """Return the paths of the layers that match one of some regular expressions.

    Raises:
        InputError: a pattern is no regular expression, or matches nothing.
    """
    layers = [path for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    kept: set[str] = set()
    for pattern in patterns:
        try:
            matches = {path for path in layers if re.search(pattern, path)}
        except re.error as error:
            raise InputError(f"keep: {pattern!r} is no regular expression: {error}") from None
        if not matches:
            raise InputError(f"keep: {pattern!r} matches no layer; layers are such as {', '.join(layers[:3])}")
        kept |= matches
    return kept
