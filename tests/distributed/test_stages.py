"""Every training stage in two processes, by the command that DVC has for it: one run each, one model each."""

import subprocess
import sys

import pytest

import lissom
from tests.pipelines.conftest import PARAMS, Workspace, read

pytestmark = pytest.mark.slow
STAGES = ("teacher", "distill", "prune", "factorize", "quantize")


def test_every_training_stage_runs_through_a_pipeline_of_two_processes(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_params(PARAMS | {"parallel": {"pipeline": 2, "microbatches": 2, "recompute": True}})
    workspace.run("dvc", "repro", "quantize")
    for stage in STAGES:
        assert read(workspace, f"metrics/{stage}/metrics.json")["dev_score"] > 0.9, stage
        assert read(workspace, f"metrics/{stage}/emissions.json")["energy_kwh"] > 0
    model = lissom.load(workspace.folder / "artifacts" / "quantize")
    assert [step.stage for step in model.manifest.steps] == list(STAGES)
    runs = subprocess.run(
        [sys.executable, "-c", "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); "
         "print(*sorted(mlflow.search_runs(experiment_names=['tiny'])['tags.mlflow.runName']))"],
        cwd=workspace.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert runs.stdout.split() == sorted(("prepare", *STAGES))
