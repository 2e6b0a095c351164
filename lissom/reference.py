"""The reference of all params, generated from the sections."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lissom.explanation import items_of, sections_of, tags_of
from lissom.params import Params

_STAGES = {
    "base": "teacher",
    "data": "prepare",
    "gates": "register",
    "tracking": "every stage",
    "parallel": "all that train",
    "cluster": "none; Kubeflow reads it",
    "variants": "export, evaluate, and all that read their figures",
}


def params_reference() -> str:
    """Return docs/params.md: every section, method and key with its default and meaning."""
    lines = [
        "# Params",
        "",
        "One section of `params.yaml` per stage. An unknown key is an error. Written by `lissom params explain`.",
    ]
    for name, field in Params.model_fields.items():
        lines += ["", f"## `{name}`", "", f"Stage: {_STAGES.get(name, name)}."]
        options = sections_of(field.annotation)
        if methods := items_of(field.annotation):
            options = methods
            lines += [
                "",
                "One method, or a list of methods that follow each other; `method: none` or an empty list pass",
            ]
            lines += ["the model on."]
        elif not options:
            lines += ["", f"{_meaning(field)} Default: {_shown(field.default)}."]
        for section in options:
            if methods or len(options) > 1:
                method = get_args(section.model_fields["method"].annotation)[0]
                lines += ["", f"### `method: {method}`"]
            lines += ["", _first_paragraph(section), *_keys(section, "")]
    return "\n".join(lines)


def _keys(section: type[BaseModel], prefix: str, defaults: BaseModel | None = None) -> list[str]:
    """Return a table row for every key; `defaults` is the outer section's default for the section, if it has one."""
    lines = (
        []
        if prefix or set(section.model_fields) <= {"method"}
        else ["", "| key | default | meaning |", "| --- | --- | --- |"]
    )
    for name, field in section.model_fields.items():
        if name == "method" and len(get_args(field.annotation)) == 1:
            continue
        default = field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        inner, items = sections_of(field.annotation), items_of(field.annotation)
        if inner:
            if default is None and not field.is_required():
                lines.append(f"| `{prefix}{name}` | null | {_meaning(field)} Its keys, where it is set: |")
            lines += _keys(inner[0], f"{prefix}{name}.", default if isinstance(default, inner[0]) else None)
            continue
        shown = "required" if defaults is None and field.is_required() else _shown(default)
        lines.append(f"| `{prefix}{name}` | {shown} | {_meaning(field)} |")
        if len(items) == 1:
            lines += _keys(items[0], f"{prefix}{name}[].")
        elif items:
            lines += _keys_of_union(items, f"{prefix}{name}[]")
    return lines


def _keys_of_union(sections: Sequence[type[BaseModel]], place: str) -> list[str]:
    """Return rows for the keys that all sections have, and then those of each."""
    common = set.intersection(*(set(section.model_fields) for section in sections))
    lines: list[str] = []
    for section in sections:
        (tag,) = tags_of(section)
        rows = _keys(section, f"{place}.")
        if not lines:
            lines = [row for row in rows if row.split("`")[1].removeprefix(f"{place}.") in common - {"pattern"}]
        lines.append(f"| `{place}.pattern: {tag}` | | {_first_paragraph(section)} |")
        lines += [row for row in rows if row.split("`")[1].removeprefix(f"{place}.") not in common]
    return lines


def _meaning(field: FieldInfo) -> str:
    values = _values_of(field.annotation)
    allowed = f" Allowed: {', '.join(f'`{value}`' for value in values)}." if len(values) > 1 else ""
    return _one_line(field.description or "") + allowed


def _values_of(annotation: Any) -> list[Any]:
    """Return the values that an annotation names; of tuples those of their items."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return list(dict.fromkeys(value for part in get_args(annotation) for value in _values_of(part)))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def _first_paragraph(section: type[BaseModel]) -> str:
    return _one_line((section.__doc__ or "").split("\n\n")[0])


def _one_line(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
