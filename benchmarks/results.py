"""Writing a benchmark's result: JSON for machines and tests, Markdown for people."""

import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lissom.artifacts import write_json, write_text
from lissom.machine import describe_machine, describe_versions

FOLDER = Path(__file__).parent / "results"


def claim(value: float, unit: str, bar: str) -> dict[str, Any]:
    """Return a claim; `bar` is a comparison such as '>= 12' that the value is held to."""
    value = float(value)  # numpy's numbers are no JSON
    sign, number = bar.split()
    holds = value >= float(number) if sign == ">=" else value <= float(number)
    return {"value": value, "unit": unit, "bar": bar, "holds": holds}


def write_result(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    claims: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[int],
    notes: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write results/<name>.json and .md, and print the table."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=FOLDER).stdout.strip()
    result = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "seeds": list(seeds),
        "claims": dict(claims),
        "rows": [dict(row) for row in rows],
        "notes": list(notes),
        **more,
    }
    write_json(FOLDER / f"{name}.json", result)
    text = _markdown(result)
    write_text(FOLDER / f"{name}.md", text)
    print(text)


def _markdown(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    lines = [f"# {result['benchmark']}", ""]
    if result["claims"]:
        lines += ["| claim | value | bar | holds |", "| --- | ---: | ---: | --- |"]
        for name, outcome in result["claims"].items():
            value = f"{outcome['value']:.4g} {outcome['unit']}".strip()
            lines.append(f"| `{name}` | {value} | {outcome['bar']} | {'yes' if outcome['holds'] else '**no**'} |")
        lines.append("")
    columns = list(dict.fromkeys(key for row in result["rows"] for key in row))
    lines += ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in result["rows"]]
    lines += ["", *(f"- {note}" for note in result["notes"])]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['cpu_flags'])}); {versions}; {result['date']}.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
