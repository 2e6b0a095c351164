"""Several nodes: a task starts a TrainJob, streams its log, fails when it fails, and takes it along when it is cancelled."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from lissom.cluster import ClusterParams
from lissom.components.trainjob import job_name, needs_trainjob, run_as_trainjob
from lissom.errors import InputError
from lissom.parallel.config import ParallelParams
from tests.distributed.test_launch import same, weights
from tests.kubeflow.cluster import Cluster
from tests.pipelines.conftest import PARAMS, Workspace

LAYOUT = ParallelParams(nodes=2, data=2)
CLUSTER = {
    "training": {"cpu": "8", "memory": "32Gi", "gpus": 4},
    "tracking_uri": "http://mlflow:5000",
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    "secrets": [{"name": "hub", "key": "token", "variable": "HF_TOKEN"}],
    "volumes": [{"claim": "datasets", "path": "/data"}],
    "checkpoints": "lissom-checkpoints",
}
RUN = "8a1b2c3d-4e5f"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    result = Cluster(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(result.configuration()))  # read once in a process, hence also:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", os.environ["KUBECONFIG"])
    monkeypatch.setenv("LISSOM_CLUSTER", ClusterParams.model_validate(CLUSTER).model_dump_json())
    monkeypatch.setenv("LISSOM_IMAGE", "registry/lissom-train@sha256:abc")
    monkeypatch.setattr("lissom.components.trainjob._SECONDS_BETWEEN_LOOKS", 0.05)
    yield result
    result.close()


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("rows")
    return {
        "section": [("base", "{}"), ("parallel", '{"nodes": 2}')], "checkpoints": tmp_path / "checkpoints", "checkpoint_seconds": 20.0,
        "pipeline_run": RUN, "executor_input": None, "data_input": tmp_path / "data", "model_output": tmp_path / "out" / "model",
    }  # fmt: skip


def nodes_do(cluster, tmp_path, script: str) -> None:
    shared = tmp_path / "checkpoints" / "exchange" / "teacher"
    cluster.instead = ["sh", "-c", script.replace("SHARED", str(shared))]


SUCCEEDS = "cat SHARED/inputs/data/train.parquet; echo node $PET_NODE_RANK of $PET_NNODES; mkdir -p SHARED/outputs/model; echo w > SHARED/outputs/model/weights"


def test_a_job_is_what_the_params_say(cluster, arguments, tmp_path):
    nodes_do(cluster, tmp_path, SUCCEEDS)
    result = []
    start = cluster.start
    cluster.start = lambda job: (result.append(job), start(job))
    run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])
    (job,) = result
    assert TrainerV1alpha1TrainJob.from_dict(job).spec.runtime_ref.name == "torch-distributed"
    trainer = job["spec"]["trainer"]
    shared = tmp_path / "checkpoints" / "exchange" / "teacher"
    assert trainer["command"] == [
        "python", "-m", "lissom.components.teacher", "--section", "base", "{}", "--section", "parallel", '{"nodes": 2}',
        "--checkpoint-seconds", "20.0", "--pipeline-run", RUN, "--checkpoints", str(tmp_path / "checkpoints"),
        "--data-input", str(shared / "inputs" / "data"), "--model-output", str(shared / "outputs" / "model"),
    ]  # fmt: skip
    assert trainer["numNodes"] == 2 and trainer["image"] == "registry/lissom-train@sha256:abc"
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 4}
    assert {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"} in trainer["env"]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]] == [
        "lissom-checkpoints",
        "datasets",
    ]
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/checkpoints", "/data"]
    assert pod["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "effect": "NoSchedule", "operator": "Exists"}]


def test_outputs_come_back_the_log_is_shown_and_nothing_is_left(cluster, arguments, tmp_path, capsys):
    nodes_do(cluster, tmp_path, SUCCEEDS)
    run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])
    assert (arguments["model_output"] / "weights").read_text() == "w\n"
    assert capsys.readouterr().out.splitlines() == ["rowsnode 0 of 2"]
    assert cluster.jobs == {} and cluster.deleted == [job_name("teacher", RUN)]
    assert not (tmp_path / "checkpoints" / "exchange" / "teacher").exists()


def test_a_job_that_fails_is_kept_and_replaced_by_the_next_try(cluster, arguments, tmp_path, capsys):
    nodes_do(cluster, tmp_path, "echo out of memory; exit 3")
    with pytest.raises(InputError, match=r"TrainJob lissom-teacher-8a1b2c3d4e5f failed; its log is above"):
        run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])
    assert "out of memory" in capsys.readouterr().out
    assert list(cluster.jobs) == [job_name("teacher", RUN)] and not arguments["model_output"].exists()
    nodes_do(cluster, tmp_path, SUCCEEDS)
    run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])
    assert cluster.deleted == [job_name("teacher", RUN)] * 2


def test_what_lacks_is_said(cluster, arguments, monkeypatch):
    assert needs_trainjob(LAYOUT) and not needs_trainjob(ParallelParams(data=2))
    monkeypatch.setenv("PET_NODE_RANK", "0")
    assert not needs_trainjob(LAYOUT)
    none = ClusterParams.model_validate({**CLUSTER, "checkpoints": None, "runtime": "torch-distributed"})
    monkeypatch.setenv("LISSOM_CLUSTER", none.model_dump_json())
    with pytest.raises(InputError, match=r"through the claim that cluster\.checkpoints names, and none is named"):
        run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])
    other = ClusterParams.model_validate({**CLUSTER, "runtime": "mine"})
    monkeypatch.setenv("LISSOM_CLUSTER", other.model_dump_json())
    with pytest.raises(InputError, match="Failed to get Runtime: mine"):
        run_as_trainjob("teacher", LAYOUT, arguments, ["data"], ["model"])


def test_cancelling_the_task_cancels_the_job(cluster, arguments, tmp_path):
    nodes_do(cluster, tmp_path, "echo begun; sleep 100")
    code = (
        "import sys, json, pathlib; from lissom.components.trainjob import run_as_trainjob; from tests.kubeflow.test_trainjob import LAYOUT; "
        "a = json.loads(sys.argv[1]); a |= {k: pathlib.Path(a[k]) for k in ('checkpoints', 'data_input', 'model_output')}; "
        "run_as_trainjob('teacher', LAYOUT, a, ['data'], ['model'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(arguments, default=str)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    nodes = cluster.nodes[job_name("teacher", RUN)]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert (
        process.returncode == 128 + signal.SIGTERM
        and "cancelled: TrainJob lissom-teacher-8a1b2c3d4e5f is deleted" in said
    )
    assert cluster.jobs == {} and all(node.poll() is not None for node in nodes)


@pytest.mark.slow
def test_a_stage_really_runs_on_two_nodes(cluster, tmp_path):
    """The nodes are processes of this machine, the claim is a folder; the weights are those of one node."""
    (tmp_path / "workspace").mkdir()
    workspace = Workspace(tmp_path / "workspace")
    workspace.run(
        "python", "-m", "lissom.components.prepare", "--data-output", "data-out", "--metrics-output", "metrics-out"
    )
    cluster.work_folder = workspace.folder
    workspace.env["OMP_NUM_THREADS"] = "1"  # the order of sums is part of the result
    cluster.environment = dict(workspace.env)
    sections = {name: PARAMS[name] for name in ("base", "data", "teacher", "emissions", "tracking")}
    wanted = {"nodes": 2, "data": 2, "timeout_seconds": 120}

    def teacher(out: str, parallel: dict) -> list[str]:
        options = [
            part
            for name, value in {**sections, "parallel": parallel}.items()
            for part in ("--section", name, json.dumps(value))
        ]
        return [
            "python", "-m", "lissom.components.teacher", *options, "--checkpoints", f"{workspace.folder}/{out}/checkpoints",
            "--data-input", "data-out", "--model-output", f"{out}/model", "--logits-output", f"{out}/logits",
            "--metrics-output", f"{out}/metrics", "--pipeline-run", RUN,
        ]  # fmt: skip

    workspace.env |= {name: os.environ[name] for name in ("KUBECONFIG", "LISSOM_CLUSTER", "LISSOM_IMAGE")} | {
        "LISSOM_CLUSTER": ClusterParams(checkpoints="claim").model_dump_json(),
        "LISSOM_TRAINJOB_SECONDS": "0.2",
    }
    started = time.monotonic()
    workspace.run(*teacher("nodes", wanted), timeout=300)
    assert time.monotonic() - started < 300 and cluster.deleted == [job_name("teacher", RUN)]
    for name in ("KUBECONFIG", "LISSOM_CLUSTER", "LISSOM_IMAGE"):
        workspace.env.pop(name)
    workspace.run(*teacher("one", {"data": 2}))
    assert same(weights(workspace, "nodes"), weights(workspace, "one"))
    assert json.loads((workspace.folder / "nodes/metrics/metrics.json").read_text())["steps"] == 30
