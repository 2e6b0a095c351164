"""Base class of all values that are read from or written to JSON and YAML."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

T = TypeVar("T")


class Section(BaseModel):
    """A strict, immutable group of values; unknown keys are errors.

    An inner section may be given in part: its missing keys take their values from the outer section's default for it,
    not from the inner section's own defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _complete_inner_sections(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: _completed(value, cls._default(name)) for name, value in values.items()}

    @classmethod
    def _default(cls, name: str) -> Any:
        field = cls.model_fields.get(name)
        return None if field is None else field.default


def _completed(partial: Any, default: Any) -> Any:
    """Fill in missing keys from a default, recursively; except in unions by `method`, which share no keys."""
    if not isinstance(partial, Mapping) or not isinstance(default, Section) or "method" in type(default).model_fields:
        return partial
    values = {name: getattr(default, name) for name in type(default).model_fields}
    return values | {name: _completed(value, values.get(name)) for name, value in partial.items()}


def _as_list(value: Any) -> Any:
    """Normalise methods of a params file to a list: a single mapping is a list of one, `none` is removed."""
    methods = [value] if isinstance(value, Mapping | Section) else value
    if not isinstance(methods, list | tuple):
        return methods
    # What else a method that is switched off has, its training for instance, waits for it to be switched on again.
    return [method for method in methods if not (isinstance(method, Mapping) and method.get("method") == "none")]


def _are_expressions(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return patterns


Expressions = Annotated[tuple[str, ...], AfterValidator(_are_expressions)]
"""Regular expressions."""

Methods = Annotated[tuple[T, ...], BeforeValidator(_as_list)]
"""The methods of a stage, applied in order; a single mapping is a list of one."""
