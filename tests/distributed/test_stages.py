"""Every training stage in two processes, by the command that DVC has for it: one run each, one model each."""

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
    assert workspace.run_names() == sorted(("pipeline", "prepare", *STAGES))
