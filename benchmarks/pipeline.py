"""What `make compress` costs after installation: time, memory, the time of a repro with nothing to do, of an import.

python -m benchmarks.pipeline
"""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.results import claim, write_result
from benchmarks.workspace import ROOT
from lissom.artifacts import EMISSIONS, LEDGER_JSON, read_json
from lissom.report.ledger import Ledger

_REPEATS = 5


def main() -> None:
    """Run the default pipeline from nothing in a fresh workspace."""
    folder = _fresh_clone()
    seconds, peak = _watched(lambda: _make(folder, "compress"))
    idle = statistics.median(_seconds(lambda: _nothing_to_do(folder)) for _ in range(_REPEATS))
    light = statistics.median(
        _seconds(lambda: _python("import lissom")) - _seconds(lambda: _python("pass")) for _ in range(_REPEATS)
    )
    ledger = Ledger.model_validate(read_json(folder / "artifacts" / "report" / LEDGER_JSON))
    claims = {
        "compress_seconds": claim(seconds, "s", "<= 600"),
        "compress_peak_gib": claim(peak, "GiB", "<= 4"),
        "noop_repro_seconds": claim(idle, "s", "<= 6"),
        "import_seconds": claim(light, "s", "<= 0.5"),
    }
    rows: list[dict[str, Any]] = [
        {
            "step": row.step,
            "accuracy_percent": row.score * 100,
            "p50_ms": row.milliseconds,
            "faster_than_eager": row.speedup,
            "megabytes": row.megabytes,
            "seconds": row.seconds,
        }
        for row in ledger.rows
    ]
    stages = sorted((folder / "metrics").rglob(EMISSIONS))
    working = sum(read_json(path)["seconds"] for path in stages)
    strongest = ledger.strongest_floor
    floor = "none" if strongest is None else f"{strongest.model} {strongest.score:.1%}"
    notes = [
        f"accuracy kept {ledger.headline.score_kept:.1%}, {ledger.headline.speedup:.1f}x faster, {ledger.headline.times_smaller:.1f}x smaller; "
        f"strongest floor {floor}; plain int8 {ledger.plain_int8.quality.score:.1%} at {ledger.plain_int8.megabytes:.1f} MB",
        f"{len(stages)} stages work for {working:.0f} s; the rest is starting Python, importing torch and DVC's own work",
        "import_seconds is over an empty interpreter; memory is the largest sum of resident sets of all processes, twice a second",
    ]
    write_result("pipeline", rows, claims, seeds=[0], notes=notes)


def _fresh_clone() -> Path:
    """Return a clone with everything installed and nothing computed."""
    folder = ROOT / "benchmarks" / "work" / "pipeline"
    if not (folder / ".git").exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for command in (
        ["fetch", "--quiet"],
        ["reset", "--quiet", "--hard", "origin/HEAD"],
        ["clean", "-xfdq", "-e", ".venv"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    _make(folder, ".venv/.pipeline")
    return folder


def _make(folder: Path, target: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")
    }
    subprocess.run(["make", target], cwd=folder, env=environment, check=True)


def _nothing_to_do(folder: Path) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run([str(folder / ".venv/bin/dvc"), "repro", "--quiet"], cwd=folder, env=environment, check=True)


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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


if __name__ == "__main__":
    main()
