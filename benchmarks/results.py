"""Results of benchmarks: rows that tell where they come from, one by one; claims; JSON for machines, Markdown for people.

A row is identified by the benchmark's key columns and the seed, and measuring it again replaces it. Rows whose code is
not known, from before digests were recorded, are never replaced.
"""

import argparse
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.claims import PerSeed, student_t
from benchmarks.provenance import ROOT, code_digest, commit, environment, environment_id, today
from lissom.artifacts import read_json, write_json, write_text

FOLDER = Path(__file__).parent / "results"

Key = Mapping[str, Any]
Row = dict[str, Any]

_INTEGER_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")
_OLD = "old"
_OLD_MEANS = (
    "**old**: measured on code that has changed since, or before digests of the code were recorded; figures of a row are "
    "means over its seeds, ± the half of a 95 % interval of Student's t"
)


@dataclass(frozen=True)
class Benchmark:
    """What a script measures, and how it is told."""

    name: str
    """The script is benchmarks/<name>.py."""
    key: tuple[str, ...]
    """Columns that, with the seed, identify a row."""
    claims: Callable[["Rows"], dict[str, dict[str, Any]]]
    notes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    """Stages of the pipeline that it runs as commands: their code is measured too."""
    settings: Callable[[Key], Any] = lambda _: None
    """Returns, for a row's key, further values that the row depends on, as JSON: its own params, for instance."""
    tables: str | None = None
    """Key column that divides the rows into tables of their own."""

    def __post_init__(self) -> None:
        # Files may change while a benchmark runs; digests are kept, and are those of the code at its start.
        code_digest(self.script, self.stages, None)

    @property
    def script(self) -> Path:
        """Return the benchmark's file."""
        return ROOT / "benchmarks" / f"{self.name}.py"

    def code(self, key: Key) -> str:
        """Return the digest of the code that a row measures."""
        return code_digest(self.script, self.stages, self.settings(key))


class Rows:
    """The rows of a result, for claims."""

    def __init__(self, benchmark: Benchmark, result: Mapping[str, Any]) -> None:
        self._benchmark = benchmark
        self.all: list[Row] = result["rows"]
        self._environments = result["environments"]
        # A row may be of another version's benchmark, with settings that are gone.
        codes: dict[tuple[Any, ...], str | None] = {}
        for row in self.all:
            place = tuple(row["key"].get(name) for name in benchmark.key)
            if row["code"] is not None and place not in codes:
                codes[place] = _present_code(benchmark, row["key"])
        self._codes = codes

    def is_old(self, row: Row) -> bool:
        """Return whether a row is older than the code that it measures."""
        place = tuple(row["key"].get(name) for name in self._benchmark.key)
        return row["code"] is None or row["code"] != self._codes[place]

    def machine(self, row: Row) -> str:
        """Return a short name of the machine of a row; processors of one name may differ in what they multiply."""
        machine = self._environments[row["environment"]]["machine"]
        widest = next((flag for flag in _INTEGER_FLAGS if flag in machine["cpu_flags"]), "")
        accelerator = f", {machine['accelerator']}" if "accelerator" in machine else ""
        return f"{machine['cpu']}, {machine['cores']} cores{f' with {widest}' if widest else ''}{accelerator}"

    def take(self, figure: str, **key: Any) -> PerSeed:
        """Return a figure by seed, from present rows; if there is none, from old ones, of which the last one counts."""
        rows = [
            row for row in self.all
            if row["seed"] is not None and row["figures"].get(figure) is not None
            and all(row["key"].get(name) == value for name, value in key.items())
        ]  # fmt: skip
        present = [row for row in rows if not self.is_old(row)]
        chosen = present or rows
        return PerSeed(
            {row["seed"]: float(row["figures"][figure]) for row in chosen},
            old=bool(chosen) and not present,
            machines=frozenset(map(self.machine, chosen)),
        )

    def values(self, column: str) -> list[Any]:
        """Return the values of a key column, in the order of the rows."""
        return list(dict.fromkeys(row["key"][column] for row in self.all if column in row["key"]))


def record(
    benchmark: Benchmark,
    key: Key,
    seed: int,
    figures: Mapping[str, Any],
    *,
    data: str | None = None,
    folder: Path = FOLDER,
) -> None:
    """Write one measured row into the benchmark's result; the other rows stay as they are.

    Args:
        benchmark: the benchmark.
        key: values of the key columns.
        seed: the seed, or the number of the repeat.
        figures: what was measured; None for what does not apply.
        data: digest or version of the data.
        folder: folder of the results.
    """
    assert set(key) <= set(benchmark.key), f"{benchmark.name}: {sorted(key)} are not among {benchmark.key}"
    here = environment()
    head, dirty = commit()
    row = {
        "key": dict(key), "seed": seed, "figures": dict(figures), "commit": head, "dirty": dirty,
        "code": benchmark.code(key), "data": data, "date": today(), "environment": environment_id(here),
    }  # fmt: skip
    with _alone(folder):
        result = load(benchmark, folder)
        same = [
            number for number, other in enumerate(result["rows"])
            if other["code"] is not None and (other["key"], other["seed"]) == (row["key"], seed)
        ]  # fmt: skip
        if same:
            result["rows"][same[0]] = row
        else:
            result["rows"].append(row)
        result["environments"][row["environment"]] = here
        _write(benchmark, result, folder)
    told = {**key, "seed": seed, **{name: _cell(value) for name, value in figures.items() if value is not None}}
    print(", ".join(f"{name} {value}" for name, value in told.items()), flush=True)


def renew(benchmark: Benchmark, folder: Path = FOLDER) -> None:
    """Write claims and ages anew, for the present code."""
    with _alone(folder):
        _write(benchmark, load(benchmark, folder), folder)


def load(benchmark: Benchmark, folder: Path = FOLDER) -> dict[str, Any]:
    """Return the stored result of a benchmark, empty if there is none, with claims for the present code."""
    path = folder / f"{benchmark.name}.json"
    empty: dict[str, Any] = {"rows": [], "earlier": [], "environments": {}}
    result = read_json(path) if path.is_file() else empty
    used = {item["environment"] for item in (*result["rows"], *result["earlier"])}
    rows = Rows(benchmark, result)
    return {
        "benchmark": benchmark.name,
        "claims": benchmark.claims(rows),
        "rows": result["rows"],
        "earlier": result["earlier"],
        "environments": {name: value for name, value in result["environments"].items() if name in used},
    }


def markdown(benchmark: Benchmark, result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    rows = Rows(benchmark, result)
    lines = [f"# {benchmark.name}", ""]
    if result["claims"]:
        lines += ["| claim | value | 95 % interval | bar | holds | seeds | machine | |", "| --- |" + " ---: |" * 7]
        lines += [_claim_line(name, outcome) for name, outcome in result["claims"].items()]
        lines.append("")
    for title, members in _tables(benchmark, rows):
        lines += [*([f"## {title}", ""] if title else []), *_table(benchmark, rows, members), ""]
    lines += [*(f"- {note}" for note in (*benchmark.notes, _OLD_MEANS)), ""]
    lines += _earlier(result["earlier"])
    lines += ["## Machines and versions", ""]
    for place in result["environments"].values():
        machine, versions = place["machine"], ", ".join(f"{name} {text}" for name, text in place["versions"].items())
        more = ", ".join([*machine["cpu_flags"], *([machine["accelerator"]] if "accelerator" in machine else [])])
        lines.append(f"- {machine['cpu']}, {machine['cores']} cores ({more}); {versions}")
    return "\n".join([*lines, ""])


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0, help="seed, or number of the repeat")
    options.add_argument(
        "--rehearse", action="store_true", help="everything small, rows go to a temporary folder: no result"
    )
    return options


def folder_of(arguments: argparse.Namespace) -> Path:
    """Return the folder that rows are written to."""
    if not arguments.rehearse:
        commit()  # ends with a message now, and not after hours, if the commit is not known
        return FOLDER
    folder = Path(tempfile.mkdtemp(prefix="lissom-rehearsal-"))
    print(f"rehearsal: rows are written to {folder}, none of them is a result", flush=True)
    return folder


def _present_code(benchmark: Benchmark, key: Key) -> str | None:
    try:
        return benchmark.code(key)
    except KeyError:
        return None


def _write(benchmark: Benchmark, result: dict[str, Any], folder: Path) -> None:
    rows = Rows(benchmark, result)
    result["claims"] = benchmark.claims(rows)
    write_json(folder / f"{benchmark.name}.json", result)
    write_text(folder / f"{benchmark.name}.md", markdown(benchmark, result))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two benchmarks may run at a time; each adds its rows to what the other has written."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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


def _tables(benchmark: Benchmark, rows: Rows) -> Iterator[tuple[str, list[Row]]]:
    if benchmark.tables is None:
        if rows.all:
            yield "", rows.all
        return
    for value in rows.values(benchmark.tables):
        yield str(value), [row for row in rows.all if row["key"].get(benchmark.tables) == value]


def _table(benchmark: Benchmark, rows: Rows, members: Sequence[Row]) -> Iterator[str]:
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
            *(_cell(group[0]["key"].get(name)) for name in keys),
            *(_over_seeds(group, name) for name in figures),
            str(sum(row.get("runs", 1) for row in group)), machine, " to ".join(dict.fromkeys((dates[0], dates[-1]))),
            " ".join(commits), "" if version is None else _OLD,
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _over_seeds(group: Sequence[Row], figure: str) -> str:
    """Return a figure's mean over the rows of a line, ± the half of its interval."""
    values = [row["figures"][figure] for row in group if row["figures"].get(figure) is not None]
    if not values:
        return ""
    if any(isinstance(value, str | bool) for value in values):
        return " / ".join(dict.fromkeys(map(_cell, values)))
    spread, count = (stdev(values), len(values)) if len(values) > 1 else (0.0, 1)
    if len(group) == 1 and figure in group[0].get("deviations", {}):
        spread, count = group[0]["deviations"][figure], group[0]["runs"]
    middle = mean(values)
    if not spread:
        return _cell(values[0] if len(set(values)) == 1 else middle)
    return f"{_cell(float(middle))} ± {student_t(count - 1) * spread / sqrt(count):.2g}"


def _earlier(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what was told before rows had provenance: one number without an interval, judged by itself."""
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


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
