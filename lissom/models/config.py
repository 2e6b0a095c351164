"""Params of the base model."""

from typing import Annotated

from pydantic import Field, StringConstraints

from lissom.section import Section

BaseModelSource = Annotated[str, StringConstraints(pattern=r"^(package|hub|dir):\S.*$")]


class BaseParams(Section):
    """Which Transformer to compress."""

    model: BaseModelSource
    """`package:module/folder` (files carried by a Python package), `hub:owner/name[@revision]` or `dir:path`."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest that `model.safetensors` must have; null accepts any."""

    max_length: int = Field(default=128, ge=8)
    """Longest input in tokens, special tokens included; longer texts are cut."""
