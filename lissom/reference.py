"""The reference of all params, written from the sections themselves, so that it cannot go stale."""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lissom.params import Params, sections_of

_STAGES = {"base": "teacher", "data": "prepare", "gates": "register", "tracking": "every stage"}


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
        for section in options:
            if len(options) > 1:
                method = get_args(section.model_fields["method"].annotation)[0]
                lines += ["", f"### `method: {method}`"]
            lines += ["", _first_paragraph(section), *_keys(section, "")]
    return "\n".join(lines)


def _keys(section: type[BaseModel], prefix: str) -> list[str]:
    lines = (
        []
        if prefix or set(section.model_fields) <= {"method"}
        else ["", "| key | default | meaning |", "| --- | --- | --- |"]
    )
    for name, field in section.model_fields.items():
        if name == "method":
            continue
        inner = sections_of(field.annotation)
        if inner:
            lines += _keys(inner[0], f"{prefix}{name}.")
        else:
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{prefix}{name}` | {_default(field)} | {meaning} |")
    return lines


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def _first_paragraph(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())
