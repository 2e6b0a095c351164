"""Results of benchmarks: rows that tell where they come from, one by one; claims; JSON for machines, Markdown for people.

A row is identified by the benchmark's key columns and the seed, and measuring it again replaces it; what was claimed
before is kept. Rows whose code is not known, from before digests were recorded, are never replaced.
"""

import argparse
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.claims import PerSeed
from benchmarks.pages import cell, markdown
from benchmarks.provenance import ROOT, code_digest, commit, environment, environment_id, today
from lissom.artifacts import read_json, write_json, write_text

FOLDER = Path(__file__).parent / "results"

Key = Mapping[str, Any]
Row = dict[str, Any]

_INTEGER_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")


@dataclass(frozen=True)
class Benchmark:
    """What a script measures, and how its results are shown."""

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
    parts: Mapping[str, str] = field(default_factory=dict)
    """Modules beside the script that measure rows by themselves, without stages, by the rows' value of a key column.
    The rows of one do not get old when others change."""
    parts_by: str | None = None
    """That key column; None is `tables`."""
    timed: tuple[str, ...] = ()
    """Figures that other load changes: those of a row that is marked `disturbed` are shown, and not claimed."""

    def __post_init__(self) -> None:
        # Files may change while a benchmark runs; digests are kept, and are those of the code at its start.
        code_digest(self.script, self.stages, None)
        for module in self.parts.values():
            self._digest_of(module, None)

    @property
    def script(self) -> Path:
        """Return the benchmark's file."""
        return ROOT / "benchmarks" / f"{self.name}.py"

    def code(self, key: Key) -> str:
        """Return the digest of the code that a row measures."""
        column = self.parts_by or self.tables
        module = None if column is None else self.parts.get(key[column])
        if module is None:
            return code_digest(self.script, self.stages, self.settings(key))
        return self._digest_of(module, self.settings(key))

    def _digest_of(self, module: str, settings: Any) -> str:
        return code_digest(self.script, (), settings, part=ROOT / "benchmarks" / f"{module}.py")


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
        """Return a figure by seed, from present rows; if there is none, from old ones, of which the last one counts.

        Disturbed rows are left out if the figure is a timed one.
        """
        rows = [
            row for row in self.all
            if row["seed"] is not None and row["figures"].get(figure) is not None
            and not (figure in self._benchmark.timed and row["figures"].get("disturbed"))
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
        keep_claims(result, head)
        if same:
            result["rows"][same[0]] = row
        else:
            result["rows"].append(row)
        result["environments"][row["environment"]] = here
        _write(benchmark, result, folder)
    shown = {**key, "seed": seed, **{name: cell(value) for name, value in figures.items() if value is not None}}
    print(", ".join(f"{name} {value}" for name, value in shown.items()), flush=True)


def keep_claims(result: dict[str, Any], head: str) -> None:
    """Keep what a result claims before its first row of a commit comes; pages show what has changed since.

    Args:
        result: the result, changed in place.
        head: commit of the row that comes.
    """
    if not result["rows"] or any(row["commit"] == head for row in result["rows"]):
        return
    commits = sorted({row["commit"] for row in result["rows"]})
    date = max(row["date"] for row in result["rows"])
    kept = result["measured_before"]
    known = {(item["claim"], item["value"]) for item in kept}
    kept += [
        {"claim": name, **outcome, "date": date, "commits": commits}
        for name, outcome in result["claims"].items()
        if outcome["value"] is not None and outcome["bar"] is not None and (name, outcome["value"]) not in known
    ]


def renew(benchmark: Benchmark, folder: Path = FOLDER) -> None:
    """Write claims and ages anew, for the present code."""
    with _alone(folder):
        _write(benchmark, load(benchmark, folder), folder)


def load(benchmark: Benchmark, folder: Path = FOLDER) -> dict[str, Any]:
    """Return the stored result of a benchmark, empty if there is none, with claims for the present code."""
    path = folder / f"{benchmark.name}.json"
    empty: dict[str, Any] = {"rows": [], "measured_before": [], "earlier": [], "environments": {}}
    result = read_json(path) if path.is_file() else empty
    used = {item["environment"] for item in (*result["rows"], *result["earlier"])}
    rows = Rows(benchmark, result)
    return {
        "benchmark": benchmark.name,
        "claims": benchmark.claims(rows),
        "rows": result["rows"],
        "measured_before": result["measured_before"],
        "earlier": result["earlier"],
        "environments": {name: value for name, value in result["environments"].items() if name in used},
    }


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
    write_text(folder / f"{benchmark.name}.md", markdown(benchmark, rows, result))


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
