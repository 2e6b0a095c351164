"""What it costs to work on lissom: a run of CI, a new technique, a new task, the start of a stage, a refactoring's bits.

python -m benchmarks.shape --ci-minutes MINUTES --technique BRANCH --task BRANCH --before FOLDER --after FOLDER

Every option adds the row that it is for; `--starts` times the starts of all stages, one seed for each repeat. The
branches are throw-away ones, each with a trivial technique or task, its test and its docs; the folders hold the
artifacts of the default run before and after the refactoring, made on one machine.
"""

import filecmp
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.claims import claim, paired
from benchmarks.provenance import ROOT
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from lissom.artifacts import STEPS, WEIGHTS
from lissom.components.specs import STAGES

CI, METHOD, TASK, RUN = "run of CI", "new pruning method", "new task", "default run, before and after"

_REPEATS = 5

NOTES = (
    "files: all that a branch adds or changes, docs and tests included",
    f"bit_identical: weights of {', '.join(STEPS)} compared byte for byte",
    f"start_seconds: python until everything that the stage runs is imported, median of {_REPEATS} in turn, bytecode and files in "
    "the system's cache; startup_seconds_stage is the median over stages",
    "a task whose answers have a new shape adds two files: its half in lissom/serving, and a case in lissom/serving/classifier.py",
    "bars other than ci_minutes are this benchmark's own",
)


def main() -> None:
    """Count, compare, start every stage, and record the rows."""
    options = parser(__doc__)
    options.add_argument("--ci-minutes", type=float, help="of one .ci/run on a fresh clone")
    options.add_argument("--technique", help="branch with a trivial pruning method")
    options.add_argument("--task", help="branch with a trivial task")
    options.add_argument("--before", type=Path, help="artifacts of the default run, before")
    options.add_argument("--after", type=Path, help="artifacts of the default run, after")
    options.add_argument("--starts", action="store_true", help="time the starts of all stages")
    arguments = options.parse_args()
    if (arguments.before is None) != (arguments.after is None):
        options.error("--before and --after are compared: give both")
    rows: dict[str, dict[str, Any]] = {}
    if arguments.ci_minutes is not None:
        rows[CI] = {"minutes": arguments.ci_minutes}
    for subject, branch in ((METHOD, arguments.technique), (TASK, arguments.task)):
        if branch is not None:
            names = _touched(branch)
            rows[subject] = {"files": len(names), "names": ", ".join(names)}
    if arguments.before is not None:
        pairs = [(arguments.before / step / WEIGHTS, arguments.after / step / WEIGHTS) for step in STEPS]
        rows[RUN] = {"bit_identical": int(all(filecmp.cmp(before, after, False) for before, after in pairs))}
    if arguments.starts or arguments.rehearse:
        for stage, seconds in _start_seconds(1 if arguments.rehearse else _REPEATS).items():
            rows[f"start of {stage}"] = {
                "start_seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds),
            }  # fmt: skip
    if not rows:
        options.error("nothing to measure: give one of the options")
    folder = folder_of(arguments)
    for what, figures in rows.items():
        record(BENCHMARK, {"what": what}, arguments.seed, figures, folder=folder)


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the counts, and times over the repeats."""
    starts = [rows.take("start_seconds", what=f"start of {spec.name}") for spec in STAGES]
    typical = paired(lambda *seconds: statistics.median(seconds), *starts)
    return {
        "ci_minutes": claim(rows.take("minutes", what=CI), "min", "<= 30"),
        "files_touched_new_pruning_method": claim(rows.take("files", what=METHOD), "files", "<= 6", exact=True),
        "files_touched_new_task": claim(rows.take("files", what=TASK), "files", "<= 8", exact=True),
        "startup_seconds_stage": claim(typical, "s", "<= 9"),
        "bit_identical_default": claim(rows.take("bit_identical", what=RUN), "", ">= 1", exact=True),
    }


def _touched(branch: str) -> list[str]:
    """Return the files that a branch adds or changes since it left this one."""
    command = ["git", "diff", "--name-only", f"HEAD...{branch}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def _start_seconds(repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {spec.name: [] for spec in STAGES}
    for attempt in range(repeats + 1):
        for stage, measured in seconds.items():
            code = f"from lissom.components.runner import work_of; work_of({stage!r})"
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=True)
            if attempt:  # the first one fills the caches
                measured.append(time.perf_counter() - start)
    return seconds


BENCHMARK = Benchmark("shape", ("what",), claims, NOTES, stages=tuple(spec.name for spec in STAGES))

if __name__ == "__main__":
    main()
