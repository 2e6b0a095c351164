"""What it costs to work on lissom: a run of CI, a new technique, a new task, the start of a stage, a refactoring's bits.

python -m benchmarks.shape --ci-minutes MINUTES --technique BRANCH --task BRANCH --before FOLDER --after FOLDER

The branches are throw-away ones, each with a trivial technique or task, its test and its docs; the folders hold the
artifacts of the default run before and after the refactoring, made on one machine.
"""

import argparse
import filecmp
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import claim, write_result
from benchmarks.workspace import ROOT
from components.specs import STAGES
from lissom.artifacts import STEPS, WEIGHTS

_REPEATS = 5


def main() -> None:
    """Count, compare, start every stage, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ci-minutes", type=float, required=True, help="of one .ci/run on a fresh clone")
    parser.add_argument("--technique", required=True, help="branch with a trivial pruning method")
    parser.add_argument("--task", required=True, help="branch with a trivial task")
    parser.add_argument("--before", type=Path, required=True, help="artifacts of the default run, before")
    parser.add_argument("--after", type=Path, required=True, help="artifacts of the default run, after")
    parser.add_argument("--note", action="append", default=[], help="said below the table")
    arguments = parser.parse_args()
    technique, task = (_touched(branch) for branch in (arguments.technique, arguments.task))
    equal = [filecmp.cmp(arguments.before / step / WEIGHTS, arguments.after / step / WEIGHTS, False) for step in STEPS]
    starts = _start_seconds()
    rows: list[dict[str, Any]] = [
        {"stage": stage, "start_seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        for stage, seconds in starts.items()
    ]
    claims = {
        "ci_minutes": claim(arguments.ci_minutes, "min", "<= 30"),
        "files_touched_new_pruning_method": claim(len(technique), "files", "<= 6"),
        "files_touched_new_task": claim(len(task), "files", "<= 8"),
        "startup_seconds_stage": claim(statistics.median(row["start_seconds"] for row in rows), "s", "<= 9"),
        "bit_identical_default": claim(all(equal), "", ">= 1"),
    }
    notes = [
        "a pruning method touches " + ", ".join(technique),
        "a task touches " + ", ".join(task),
        f"weights of {', '.join(STEPS)} compared byte for byte",
        f"starts: python until everything that the stage runs is imported, {_REPEATS} in turn, bytecode and files in "
        "the system's cache; startup_seconds_stage is the median over stages",
        *arguments.note,
    ]
    write_result("shape", rows, claims, seeds=[0], notes=notes)


def _touched(branch: str) -> list[str]:
    """Return the files that a branch adds or changes since it left this one."""
    command = ["git", "diff", "--name-only", f"HEAD...{branch}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def _start_seconds() -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {spec.name: [] for spec in STAGES}
    for attempt in range(_REPEATS + 1):
        for stage, measured in seconds.items():
            code = f"from components.runner import work_of; work_of({stage!r})"
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=True)
            if attempt:  # the first one fills the caches
                measured.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
