"""What the default run costs after installation: time, memory, the time of a repro with nothing to do, of an import.

    python -m benchmarks.pipeline [--seed 1]

The default params.yaml with another seed for all trainings, from nothing, in a workspace of its own: what `make compress`
does once everything is installed.
"""

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.claims import claim, paired
from benchmarks.provenance import ROOT
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.workspace import WORK, open_workspace, read_params, reproduce, with_seed
from lissom.artifacts import EMISSIONS, FINAL, LEDGER_JSON, STEPS, TEACHER, read_json
from lissom.report.ledger import Ledger

WHOLE, FLOOR, PLAIN = "whole run", "strongest floor", "teacher, strongest plain int8"

_STAGES = ("prepare", *STEPS, "export", "evaluate", "emissions", "report", "register")
_REPEATS = 5

NOTES = (
    "whole run: `dvc repro` of the default params from nothing; peak_gib is the largest sum of resident sets of all its processes, "
    "twice a second. Stages start Python and import torch for most of the time that they do not work",
    "import_seconds is over an empty interpreter",
    "p50_ms is of the pipeline's own timing sessions, one for each step: steps are compared in headline",
    "the default run is short: default_teacher_over_floor_points tells what its teacher has learnt beyond the strongest cheap model",
)


def main() -> None:
    """Run the default pipeline from nothing in a fresh workspace."""
    arguments = parser(__doc__).parse_args()
    results, name = folder_of(arguments), f"pipeline{'-rehearsed' if arguments.rehearse else ''}"
    shutil.rmtree(WORK / name, ignore_errors=True)
    params = with_seed(settings({}), arguments.seed)
    folder = open_workspace(name, smaller(params) if arguments.rehearse else params)
    for step, figures in measure(folder).items():
        python = (
            f"standard library of Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        )
        record(BENCHMARK, {"step": step}, arguments.seed, figures, data=python, folder=results)


def settings(key: Key) -> Any:
    """Return the default params."""
    return read_params(ROOT / "params.yaml")


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of the whole run and of its steps."""
    seconds, peak = _watched(lambda: reproduce(folder))
    idle = statistics.median(_seconds(lambda: reproduce(folder, "--quiet")) for _ in range(_REPEATS))
    light = statistics.median(
        _seconds(lambda: _python("import lissom")) - _seconds(lambda: _python("pass")) for _ in range(_REPEATS)
    )
    stages = [read_json(path)["seconds"] for path in sorted((folder / "metrics").rglob(EMISSIONS))]
    ledger = Ledger.model_validate(read_json(folder / "artifacts" / "report" / LEDGER_JSON))
    whole = {
        "seconds": seconds, "working_seconds": sum(stages), "peak_gib": peak, "noop_seconds": idle, "import_seconds": light,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {WHOLE: whole}
    for row in ledger.rows:
        rows[row.step] = {
            "accuracy_percent": row.score * 100, "p50_ms": row.milliseconds.value, "megabytes": row.megabytes,
            "seconds": row.seconds,
        }  # fmt: skip
    if (cheapest := ledger.strongest_floor) is not None:
        rows[FLOOR] = {"accuracy_percent": cheapest.score * 100, "megabytes": cheapest.megabytes}
    strongest = ledger.plain_int8[0]
    rows[PLAIN] = {"accuracy_percent": strongest.score * 100, "megabytes": strongest.megabytes}
    return rows


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return what the default run costs, and what is known of its accuracy."""
    accuracy = {step: rows.take("accuracy_percent", step=step) for step in (TEACHER, FINAL, FLOOR)}
    lost = paired(lambda teacher, final: teacher - final, accuracy[TEACHER], accuracy[FINAL])
    over = paired(lambda teacher, floor: teacher - floor, accuracy[TEACHER], accuracy[FLOOR])
    return {
        "default_seconds": claim(rows.take("seconds", step=WHOLE), "s", "<= 600"),
        "default_peak_gib": claim(rows.take("peak_gib", step=WHOLE), "GiB", "<= 4"),
        "noop_repro_seconds": claim(rows.take("noop_seconds", step=WHOLE), "s", "<= 6"),
        "import_seconds": claim(rows.take("import_seconds", step=WHOLE), "s", "<= 0.5"),
        "default_teacher_accuracy": claim(accuracy[TEACHER], "%", None),
        "default_teacher_over_floor_points": claim(over, "points", None),
        "default_lost_points": claim(lost, "points", None),
    }


def smaller(params: dict[str, Any]) -> dict[str, Any]:
    """Return params of a run of few texts and steps, which no gate stops."""
    for name in ("teacher", "distill", "prune", "factorize", "quantize"):
        training = params[name] if name == "teacher" else params[name]["training"]
        training["epochs"] = 0.1
    params["data"] |= {"train_examples": 320, "transfer_examples": 64}
    params["export"] = {"label_agreement": 0.5, "float_tolerance": 1.0, "int8_tolerance": 100.0}
    params["gates"] = {"max_score_drop": 1.0, "min_speedup": {}, "max_megabytes": 1000}
    return params


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=os.environ)


def _watched(action: Callable[[], None]) -> tuple[float, float]:
    """Return seconds, and the peak of the children's resident memory in GiB."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    seconds = _seconds(action)
    done.set()
    watcher.join()
    return seconds, peak / 2**30


BENCHMARK = Benchmark("pipeline", ("step",), claims, NOTES, stages=_STAGES, settings=settings)

if __name__ == "__main__":
    main()
