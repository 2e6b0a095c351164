"""Overrides of params from a command line: `section.key=value`."""

from typing import Any

import yaml

from lissom.errors import ParamsError
from lissom.safe_yaml import parse

_MOST_DIGITS = 4


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `section.key=value` in the values of a params file, the value in YAML.

    Raises:
        ParamsError: it is not of that form, or goes through a key that is no section.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ParamsError(f"override {override!r}: write it as section.key=value")
    *folders, last = key.split(".")
    place: Any = values
    for folder in folders:
        place = _inner(place, folder, override)
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"override {override[:100]!r}: the value is not YAML: {reason}; quote it") from None
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _inner(place: Any, name: str, override: str) -> Any:
    """Return an entry of a section or of a list of methods; a missing section is created."""
    inner = place[_index(place, name, override)] if isinstance(place, list) else place.setdefault(name, {})
    if not isinstance(inner, dict | list):
        raise ParamsError(f"override {override!r}: {name} is a value, not a section")
    return inner


def _index(methods: list[Any], name: str, override: str) -> int:
    if not name.isdecimal() or len(name) > _MOST_DIGITS or int(name) >= len(methods):
        raise ParamsError(
            f"override {override!r}: {name!r} is no method of a list of {len(methods)}; write its number, from 0"
        )
    return int(name)
