"""After any single fault: one line, nothing half-written, and a rerun with the bytes of a run without faults."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.simulator import KILLED, Fault, fault_of, new_folder, run

COUNT = int(os.environ.get("LISSOM_FAULT_SEEDS", "30"))
SEEDS = [int(os.environ["LISSOM_FAULT_SEED"])] if "LISSOM_FAULT_SEED" in os.environ else range(COUNT)
_STORE = ("mlflow.db", "mlruns", "mlartifacts", "inputs", "tmp")


def files(folder: Path) -> dict[str, object]:
    """Contents of all files but MLflow's; the ids of the runs differ from run to run."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or (name.startswith(_STORE) and not name.startswith("tmp/")):
            continue
        found[name] = path.read_bytes()
        if path.name == "lissom.json":
            found[name] = json.loads(path.read_text())
            for step in found[name]["steps"]:
                step["run_id"] = ""
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The files of a run without faults, the number of its calls, and a folder with an empty database."""
    template = new_folder(tmp_path_factory.mktemp("template") / "work")
    first = run(template, Fault())
    assert first[0] == 0, first[1]
    folder = new_folder(tmp_path_factory.mktemp("clean") / "work", template)
    code, said, calls = run(folder, Fault())
    assert code == 0, said
    return files(folder), calls, template


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_fault_loses_nothing_and_leaves_nothing(seed, clean, tmp_path):
    wanted, calls, template = clean
    folder = new_folder(tmp_path / "work", template)
    fault = fault_of(seed, calls)
    again = (
        f"LISSOM_FAULT_SEED={seed} python -m pytest tests/faults -k loses_nothing   ({fault.kind} at {fault.number})"
    )
    code, said, _ = run(folder, fault)
    assert code in (0, 1, KILLED), again
    assert "Traceback" not in said, f"{again}\n{said}"
    if code == 1:
        assert said.startswith("prune: ") and "LISSOM_DEBUG" not in said, f"{again}\n{said}"
    code, said, _ = run(folder, Fault())
    assert code == 0, f"{again}\n{said}"
    left = files(folder)
    assert left.keys() == wanted.keys(), again
    assert [name for name in wanted if left[name] != wanted[name]] == [], again
    assert not any((folder / "tmp").iterdir()), again
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        states = [state for (state,) in database.execute("SELECT status FROM runs")]
    assert "RUNNING" not in states, again
