"""The Markdown page of a benchmark's result: claims, a line for each key and machine, notes, machines."""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.claims import student_t

if TYPE_CHECKING:  # results write pages
    from benchmarks.results import Benchmark, Row, Rows

_OLD = "old"
_OLD_MEANS = (
    "**old**: measured on code that has changed since, or before digests of the code were recorded; figures of a row are "
    "means over its seeds, ± the half of a 95 % interval of Student's t"
)


def markdown(benchmark: "Benchmark", rows: "Rows", result: Mapping[str, Any]) -> str:
    """Return the page of a result.

    Args:
        benchmark: the benchmark.
        rows: the rows of the result.
        result: the result, with claims for the present code.
    """
    lines = [f"# {benchmark.name}", ""]
    if result["claims"]:
        lines += ["| claim | value | 95 % interval | bar | holds | seeds | machine | |", "| --- |" + " ---: |" * 7]
        lines += [_claim_line(name, outcome) for name, outcome in result["claims"].items()]
        lines.append("")
    for title, members in _tables(benchmark, rows):
        lines += [*([f"## {title}", ""] if title else []), *_table(benchmark, rows, members), ""]
    lines += [*(f"- {note}" for note in (*benchmark.notes, _OLD_MEANS)), ""]
    present = {name: outcome["value"] for name, outcome in result["claims"].items()}
    changed = [item for item in result["measured_before"] if item["value"] != present.get(item["claim"])]
    lines += _measured_before(changed)
    lines += _earlier(result["earlier"])
    lines += ["## Machines and versions", ""]
    for place in result["environments"].values():
        machine, versions = place["machine"], ", ".join(f"{name} {text}" for name, text in place["versions"].items())
        more = ", ".join([*machine["cpu_flags"], *([machine["accelerator"]] if "accelerator" in machine else [])])
        lines.append(f"- {machine['cpu']}, {machine['cores']} cores ({more}); {versions}")
    return "\n".join([*lines, ""])


def _claim_line(name: str, outcome: Mapping[str, Any]) -> str:
    unit = outcome["unit"]
    value = "" if outcome["value"] is None else f"{outcome['value']:.4g} {unit}".strip()
    interval = "" if outcome["low"] is None else f"{outcome['low']:.4g} to {outcome['high']:.4g}"
    holds = outcome["holds"] if outcome["holds"] in ("yes", "no bar") else f"**{outcome['holds']}**"
    cells = (
        f"`{name}`", value, interval, outcome["bar"] or "", holds, str(outcome["seeds"]),
        "; ".join(outcome["machines"]), _OLD if outcome["old"] else "",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _tables(benchmark: "Benchmark", rows: "Rows") -> Iterator[tuple[str, list["Row"]]]:
    if benchmark.tables is None:
        if rows.all:
            yield "", rows.all
        return
    for value in rows.values(benchmark.tables):
        yield str(value), [row for row in rows.all if row["key"].get(benchmark.tables) == value]


def _table(benchmark: "Benchmark", rows: "Rows", members: Sequence["Row"]) -> Iterator[str]:
    """Yield the lines of a table: one for each key, machine and, if old, version of the code; old ones last."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in members:
        place = tuple(row["key"].get(name) for name in benchmark.key)
        version = (row["code"] or row["commit"]) if rows.is_old(row) else None
        lines.setdefault((*place, rows.machine(row), version), []).append(row)
    keys = [
        name for name in benchmark.key if name != benchmark.tables and any(name in row["key"] for row in members)
    ]  # fmt: skip
    figures = list(dict.fromkeys(name for row in members for name in row["figures"]))
    yield "| " + " | ".join([*keys, *figures, "runs", "machine", "date", "commit", ""]) + " |"
    yield "| --- |" + " ---: |" * (len(keys) + len(figures) + 4)
    for (*_, machine, version), group in sorted(lines.items(), key=lambda line: line[0][-1] is not None):
        dates = sorted({row["date"] for row in group})
        commits = dict.fromkeys(row["commit"][:7] + ("+" if row["dirty"] else "") for row in group)
        cells = [
            *(cell(group[0]["key"].get(name)) for name in keys),
            *(_over_seeds(group, name) for name in figures),
            str(sum(row.get("runs", 1) for row in group)), machine, " to ".join(dict.fromkeys((dates[0], dates[-1]))),
            " ".join(commits), "" if version is None else _OLD,
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _over_seeds(group: Sequence["Row"], figure: str) -> str:
    """Return a figure's mean over the rows of a line, ± the half of its interval."""
    values = [row["figures"][figure] for row in group if row["figures"].get(figure) is not None]
    if not values:
        return ""
    if any(isinstance(value, str | bool) for value in values):
        return " / ".join(dict.fromkeys(map(cell, values)))
    spread, count = (stdev(values), len(values)) if len(values) > 1 else (0.0, 1)
    if len(group) == 1 and figure in group[0].get("deviations", {}):
        spread, count = group[0]["deviations"][figure], group[0]["runs"]
    middle = mean(values)
    if not spread:
        return cell(values[0] if len(set(values)) == 1 else middle)
    return f"{cell(float(middle))} ± {student_t(count - 1) * spread / sqrt(count):.2g}"


def _measured_before(claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what was claimed by rows that have been measured again since."""
    if not claims:
        return
    yield from ("## Measured before", "", "By rows of other commits, which those above have replaced.", "")
    yield from (
        "| claim | value | 95 % interval | bar | held | seeds | machine | date | commits |",
        f"| --- |{' ---: |' * 8}",
    )
    for item in claims:
        commits = " ".join(commit[:7] for commit in item["commits"])
        yield _claim_line(item["claim"], {**item, "old": False}).removesuffix(" |") + f"{item['date']} | {commits} |"
    yield ""


def _earlier(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the claims from before rows had provenance: one number without an interval, judged by itself."""
    if not parts:
        return
    yield from ("## Told earlier", "")
    yield from (
        "All of it is old. Claims were single numbers without intervals, and held if the number did.", "",
        "| claim | value | bar | held | date | commit | remark |", "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    )  # fmt: skip
    for part in parts:
        for name, outcome in part["claims"].items():
            held = {True: "yes", False: "**no**", None: ""}[outcome["holds"]]
            value = f"{outcome['value']:.4g} {outcome['unit']}".strip()
            cells = (
                f"`{name}`",
                value,
                outcome["bar"],
                held,
                part["date"],
                part["commit"][:7],
                outcome.get("remark", ""),
            )
            yield f"| {' | '.join(cells)} |"
    yield ""
    yield from (f"- {part['date']}, {part['commit'][:7]}: {note}" for part in parts for note in part["notes"])
    yield ""


def cell(value: Any) -> str:
    """Return a value as text, numbers with four digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
