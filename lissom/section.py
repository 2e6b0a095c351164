"""The base of everything that is read from or written to JSON and YAML."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A strict, immutable group of values: an unknown key is an error, not a silently ignored wish."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
