"""Two people run the pipeline against one MLflow server at once; the server restarts while a stage runs."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from lissom.tracking.registry import CHALLENGER, _set_alias
from lissom.tracking.runs import PIPELINE, flatten
from tests.pipelines.conftest import PARAMS, Workspace, lissom_predict, read

pytestmark = [pytest.mark.slow, pytest.mark.servers]

VARIANTS = ["teacher", "quantize"]
STAGES = [
    "prepare", "teacher", "distill", "prune", "factorize", "quantize", "emissions", "report", "register",
    *(f"{stage}@{variant}" for stage in ("export", "evaluate") for variant in VARIANTS),
]  # fmt: skip


@pytest.fixture(scope="module")
def teams(mlflow_server, tmp_path_factory):
    """Workspaces of two people, whose pipelines ran at the same time."""
    outcome = {}
    for name, rank in (("ada", 16), ("grace", 8)):
        workspace = outcome[name] = Workspace(tmp_path_factory.mktemp(name))
        workspace.env |= {"MLFLOW_TRACKING_URI": mlflow_server.address, "OMP_NUM_THREADS": "1"}
        own = {
            "variants": VARIANTS,
            "tracking": {"experiment": name},
            "factorize": PARAMS["factorize"] | {"rank": rank},
        }
        workspace.write_params(PARAMS | own)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(item.run, "dvc", "repro", timeout=1500) for item in outcome.values()]:
            done.result()
    return outcome


@pytest.fixture
def client(mlflow_server):
    return mlflow.MlflowClient(tracking_uri=mlflow_server.address)


def runs(client, experiment):
    actual = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    stages = [run for run in actual if run.info.run_name != PIPELINE]
    assert len(actual) == len(stages) + 1 or experiment == "outage"
    return {run.info.run_name: run for run in stages}, len(stages)


@pytest.mark.parametrize("name", ["ada", "grace"])
def test_one_run_per_stage(teams, client, name):
    actual, count = runs(client, name)
    assert sorted(actual) == sorted(STAGES) and count == len(STAGES)
    assert {run.info.status for run in actual.values()} == {"FINISHED"}


@pytest.mark.parametrize("name", ["ada", "grace"])
def test_no_metric_is_lost(teams, client, name):
    actual, _ = runs(client, name)
    for title, run in actual.items():
        metrics = read(teams[name], f"metrics/{title.replace('@', '/')}/metrics.json")
        expected = {
            key: float(value)
            for key, value in flatten({title.split("@")[0]: metrics})
            if isinstance(value, int | float)
        }
        assert {key: run.data.metrics.get(key) for key in expected} == pytest.approx(expected), title
    records = [item for item in read(teams[name], "metrics/teacher/history.json") if item["loss"] is not None]
    logged = client.get_metric_history(actual["teacher"].info.run_id, "loss")
    assert [(item.step, item.value) for item in sorted(logged, key=lambda item: item.step)] == [
        (item["step"], pytest.approx(item["loss"])) for item in records
    ]


def test_artifacts_go_through_the_server(teams, client):
    actual, _ = runs(client, "ada")
    assert actual["report"].info.artifact_uri.startswith("mlflow-artifacts:")
    assert {file.path for file in client.list_artifacts(actual["report"].info.run_id)} >= {"report.html", "ledger.json"}


def test_both_versions_are_registered_and_load(teams, client):
    (model,) = client.search_registered_models()
    versions = client.search_model_versions(f"name = '{model.name}'")
    assert len(versions) == 2
    for version in versions:
        uri = f"models:/{model.name}/{version.version}"
        assert lissom_predict(teams["ada"], "the film was long", "great movie", "--model", uri) in ("match", "mismatch")


def test_an_alias_that_two_set_at_the_same_moment_is_set(client):
    """MLflow looks and then inserts; the database refuses the second of two who both found nothing."""
    run = client.create_run(client.create_experiment("hurried")).info
    with ThreadPoolExecutor(2) as pool:
        for name in (f"hurried-{number}" for number in range(20)):
            client.create_registered_model(name)
            versions = [client.create_model_version(name, run.artifact_uri, run.run_id).version for _ in range(2)]
            list(pool.map(lambda version, name=name: _set_alias(client, name, CHALLENGER, version), versions))
            assert client.get_registered_model(name).aliases[CHALLENGER] in versions


def teacher(workspace, **env):
    """Start the teacher's stage as DVC would, with time enough to be disturbed."""
    command = [
        "python", "-m", "lissom.components.teacher", "--set", "teacher.epochs=12", "--set", "tracking.experiment=outage",
        "--data-input", "artifacts/prepare", "--model-output", "out/model", "--logits-output", "out/logits",
        "--metrics-output", "out/metrics",
    ]  # fmt: skip
    return subprocess.Popen(
        command,
        cwd=workspace.folder,
        env=workspace.env | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def when_training(folder: Path, process) -> None:
    end = time.monotonic() + 120
    while not any((folder / "checkpoints").rglob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def test_a_stage_outlasts_a_restart(teams, mlflow_server, client):
    workspace = teams["ada"]
    process = teacher(workspace)
    when_training(workspace.folder, process)
    mlflow_server.kill()
    time.sleep(2)
    mlflow_server.start()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_outage(workspace, client)


def test_a_stage_that_lost_its_server_says_so_and_is_completed_later(teams, mlflow_server, client):
    workspace = teams["grace"]
    process = teacher(workspace, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    when_training(workspace.folder, process)
    mlflow_server.kill()
    try:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 1 and "goes on from its last checkpoint" in errors, errors
        assert mlflow_server.address in errors and not list((workspace.folder / "out").iterdir())
    finally:
        mlflow_server.start()
    again = teacher(workspace)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    check_outage(workspace, client)


def check_outage(workspace, client):
    """The finished run has the whole curve, whatever happened on the way."""
    experiment = client.get_experiment_by_name("outage").experiment_id
    (run, *_) = client.search_runs([experiment], "status = 'FINISHED'", order_by=["start_time DESC"])
    records = [item for item in read(workspace, "out/metrics/history.json") if item["loss"] is not None]
    logged = {item.step for item in client.get_metric_history(run.info.run_id, "loss")}
    assert logged == {item["step"] for item in records} and len(logged) > 5
