"""The base of everything that is read from or written to JSON and YAML."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

T = TypeVar("T")


class Section(BaseModel):
    """A strict, immutable group of values: an unknown key is an error, not a silently ignored wish.

    A section within a section may be given in part: what is left out keeps the value that the outer section's default
    has for it, not the inner section's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _complete_inner_sections(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: _completed(given, cls._default(name)) for name, given in values.items()}

    @classmethod
    def _default(cls, name: str) -> Any:
        field = cls.model_fields.get(name)
        return None if field is None else field.default


def _completed(given: Any, default: Any) -> Any:
    """Return a mapping with the keys that it lacks, inner ones too; a union's sections (by `method`) share none."""
    if not isinstance(given, Mapping) or not isinstance(default, Section) or "method" in type(default).model_fields:
        return given
    values = {name: getattr(default, name) for name in type(default).model_fields}
    return values | {name: _completed(value, values.get(name)) for name, value in given.items()}


def _as_list(given: Any) -> Any:
    """Return a list of methods for what stands in a params file: one mapping is a list of one, `none` an empty one."""
    methods = [given] if isinstance(given, Mapping | Section) else given
    if not isinstance(methods, list | tuple):
        return methods
    return [one for one in methods if not (isinstance(one, Mapping) and dict(one) == {"method": "none"})]


Methods = Annotated[tuple[T, ...], BeforeValidator(_as_list)]
"""The methods of a stage, one after the other; a single mapping is taken for a list of one."""
