"""What is wrong with params, in words, and which sections an annotation of pydantic allows."""

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

_OWN_LABEL = re.compile(r"(function-\w+|literal|tagged-union)\[")
"""What pydantic puts into locations for validators and unions."""


def explain(detail: dict[str, Any], values: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Return a line for one of pydantic's errors: its key as the user wrote it, the value, and what is allowed."""
    last = len(detail["loc"]) - 1
    is_key = detail["type"] == "extra_forbidden"
    location = [
        str(part) for place, part in enumerate(detail["loc"])
        if (is_key and place == last) or not _OWN_LABEL.match(str(part))
    ]  # fmt: skip
    if "literal[" in str(detail["loc"]) and isinstance(values.get(location[0]), Mapping):
        return ""  # the other form of a section that may also be one word
    section, place = _walk(location, values, root)
    value, field = detail["input"], section.model_fields.get(location[-1]) if section and location else None
    match detail["type"]:
        case "extra_forbidden":
            allowed = sorted(section.model_fields) if section else []
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return f"  {place}: unknown key; {hint}allowed here: {', '.join(allowed)}"
        case "missing":
            return f"  {place}: missing; it has no default"
        case "union_tag_invalid" | "union_tag_not_found":
            name = detail["ctx"]["discriminator"].strip("'")
            tag = value.get(name) if isinstance(value, dict) else value
            return (
                f"  {place}.{name}: {tag!r} is not a {name}; allowed: {detail['ctx'].get('expected_tags', 'see docs')}"
            )
        case "literal_error" if location[-1] == "method":
            return f"  {place}: {value!r} is not a method; allowed: {detail['ctx']['expected']}, 'none'"
        case "value_error":
            problems = str(detail["ctx"]["error"]).split("\n")
            return "\n".join(f"  {place}: {problem}" if place else f"  {problem}" for problem in problems)
        case "tuple_type" if field is not None and items_of(field.annotation):
            return f"  {place}: {value!r}; a list is expected, or a mapping with a method, such as {{method: none}}"
        case "model_type" | "model_attributes_type":
            default = "" if field is None or field.is_required() else "; remove the key to take the defaults"
            return f"  {place}: {value!r}; a mapping of keys is expected{default}"
        case "string_pattern_mismatch" if field is not None:
            meaning = " ".join((field.description or "").split())
            return f"  {place}: {value!r} is of another form; {place} is: {meaning or detail['ctx']['pattern']}"
        case _:
            return f"  {place}: {value!r}; {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _walk(
    location: Sequence[str], values: Mapping[str, Any], root: type[BaseModel]
) -> tuple[type[BaseModel] | None, str]:
    """Return the section that holds the last key of `location`, and the key's path as the user wrote it.

    pydantic's location also contains the tag of a union (the method), the index of a method even if the user wrote a
    single mapping, and a mark for a wrong key of a mapping; they are removed from the path.
    """
    section: type[BaseModel] | None = root
    path: list[str] = []
    options: list[type[BaseModel]] = []
    given: Any = values
    for index, part in enumerate(location):
        by_tag = [option for option in options if part in tags_of(option)]
        if by_tag:
            section, options = by_tag[0], []
            continue
        is_index = part.isdigit() and isinstance(given, Mapping) and part not in map(str, given)
        if part == "[key]" or is_index:
            continue
        given = given.get(part) if isinstance(given, Mapping) else _item(given, part)
        path.append(part)
        if index + 1 < len(location) and section is not None and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            options = sections_of(annotation) or items_of(annotation)
            section = options[0] if len(options) == 1 else None
            options = options if len(options) > 1 else []
    return section, ".".join(path)


def _item(given: Any, number: str) -> Any:
    """Return an item of a list that a user gave; None of anything else."""
    return given[int(number)] if isinstance(given, list) and number.isdigit() else None


def tags_of(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of the key that tells a section from others of its union, `method` or `pattern`."""
    return tuple(
        tag for name in ("method", "pattern") if name in section.model_fields
        for tag in get_args(section.model_fields[name].annotation)
    )  # fmt: skip


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation allows: one, several for a union, or none."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [section for part in get_args(annotation) for section in sections_of(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def items_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a tuple annotation allows as items; empty for other annotations."""
    if get_origin(annotation) is not tuple:
        return []
    return [section for part in get_args(annotation) for section in sections_of(part)]
