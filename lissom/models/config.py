"""Params of the base model."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from lissom.attention.config import Pattern
from lissom.section import Methods, Section

Extension = Literal["copy", "interpolate"]
"""How positions are added: a table is repeated or stretched."""
ScaleName = Literal["max", "mse", "learned", "mean"]
"""How the scale of a row is found: its largest weight, the least squared error, by training, or its mean weight."""
BaseModelSource = Annotated[str, StringConstraints(pattern=r"^(package|hub|dir|new):\S.*$")]
NEW = "new:"
"""Starts the source of a base model that is made, with random weights."""


class NewModelParams(Section):
    """Sizes of a new base model."""

    vocabulary: int = Field(default=8000, ge=512)
    """The most tokens; 259 of them are special tokens and bytes, the others are learnt from the training texts."""

    width: int = Field(default=256, ge=8)
    """Size of the hidden states."""

    blocks: int = Field(default=4, ge=1)
    """Transformer blocks; an encoder-decoder has as many in each of both."""

    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""

    neurons: int = Field(default=1024, ge=1)
    """Neurons of every feed-forward network."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the values that are left out during training."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "NewModelParams":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide the width, {self.width}")
        return self


class BaseParams(Section):
    """Which Transformer to compress."""

    model: BaseModelSource
    """`package:module/folder` (files carried by a Python package), `hub:owner/name[@revision]`, or `dir:path` of a
    folder; instead of a folder also a GGUF file; or `new:family` (bart, gpt2, llama, marian, t5): random weights, and a
    vocabulary learnt from the training texts."""

    shape: NewModelParams | None = None
    """Sizes of a new base model; null takes the defaults."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest that `model.safetensors`, or the GGUF file, must have; null accepts any."""

    max_length: int = Field(default=128, ge=8)
    """Longest input in tokens, special tokens included; longer texts are cut."""

    longer_positions: Extension | None = None
    """How a model gets positions for a `max_length` beyond those that it has: a table is repeated or stretched, and
    rotary positions are left as they are or stretched; null refuses such a length."""

    attention: Methods[Pattern] = ()
    """Patterns of attention, for long texts; one mapping or a list of them, for different blocks or heads. Empty is the
    model's own attention."""

    @property
    def is_new(self) -> bool:
        """Return whether the model is made, with random weights."""
        return self.model.startswith(NEW)

    @model_validator(mode="after")
    def _shape_is_of_a_new_model(self) -> "BaseParams":
        if self.shape is not None and not self.is_new:
            raise ValueError(f"shape gives the sizes of a new model, and model is {self.model}; set shape to null")
        if self.is_new and self.sha256 is not None:
            raise ValueError(f"sha256 is set, but {self.model} has no file yet; set it to null")
        return self
