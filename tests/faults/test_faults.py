"""After any single fault in any stage: one line, nothing half-written, a rerun with the bytes of a run without faults."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from lissom.artifacts import EMISSIONS
from lissom.components.specs import STAGES
from tests.faults.simulator import KILLED, MODEL, Fault, fault_of, new_folder, run, stage_of

COUNT = int(os.environ.get("LISSOM_FAULT_SEEDS", "300"))
SEEDS = [int(os.environ["LISSOM_FAULT_SEED"])] if "LISSOM_FAULT_SEED" in os.environ else range(COUNT)
_STORE = ("mlflow.db", "mlruns", "mlartifacts", "inputs", "tmp")


def files(folder: Path) -> dict[str, object]:
    """Contents of all files but MLflow's, without what tells of the runs: their ids, and whether one went on."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or (name.startswith(_STORE) and not name.startswith("tmp/")):
            continue
        found[name] = path.read_bytes()
        if path.name == "lissom.json":
            found[name] = json.loads(path.read_text())
            for step in found[name]["steps"]:
                step["run_id"], step["cost"]["resumed"] = "", False
        elif path.name == EMISSIONS:
            found[name] = json.loads(path.read_text()) | {"resumed": False}
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a database whose tables exist."""
    folder = new_folder(tmp_path_factory.mktemp("template") / "work")
    first = run(folder, "evaluate", Fault())
    assert first[0] == 0, first[1]
    return folder


@pytest.fixture(scope="module")
def clean(template, tmp_path_factory):
    """By stage: the files of a run without faults, and the number of its calls."""

    def outcome(stage):
        folder = new_folder(tmp_path_factory.mktemp("clean") / "work", template)
        code, said, calls = run(folder, stage, Fault())
        assert code == 0, said
        return files(folder), calls

    return {spec.name: outcome(spec.name) for spec in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_fault_loses_nothing_and_leaves_nothing(seed, clean, template, tmp_path):
    stage = stage_of(seed)
    wanted, calls = clean[stage]
    folder = new_folder(tmp_path / "work", template)
    fault = fault_of(seed, calls)
    again = f"LISSOM_FAULT_SEED={seed} python -m pytest tests/faults -k loses_nothing   ({stage}: {fault.kind} at {fault.number})"
    code, said, _ = run(folder, stage, fault)
    assert code in (0, 1, KILLED), again
    assert "Traceback" not in said, f"{again}\n{said}"
    if code == 1:
        own = said[said.find(f"{stage}: ") :] if stage == "register" else said  # MLflow tells of a version first
        assert own.startswith(f"{stage}: ") and "LISSOM_DEBUG" not in own, f"{again}\n{said}"
    code, said, _ = run(folder, stage, Fault())
    assert code == 0, f"{again}\n{said}"
    left = files(folder)
    assert left.keys() == wanted.keys(), again
    assert [name for name in wanted if left[name] != wanted[name]] == [], again
    assert not any((folder / "tmp").iterdir()), again
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        states = [state for (state,) in database.execute("SELECT status FROM runs")]
    assert "RUNNING" not in states, again
    if stage == "register":
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        aliases = client.get_registered_model(MODEL).aliases
        version = client.get_model_version(MODEL, aliases["champion"])
        assert aliases["challenger"] == aliases["champion"] and version.tags["lissom.files_sha256"] == "0", again
