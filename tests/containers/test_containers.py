"""The images do what the commands do: the compiled pipeline finds what `dvc repro` finds, the server answers the same.

One file, so that one process builds the images.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import time

import pytest
import yaml

from lissom.artifacts import METRICS, STEPS, WEIGHTS
from lissom.tracking.runs import flatten
from tests.containers.conftest import ROOT, start
from tests.pipelines.conftest import PARAMS, Workspace
from tests.pipelines.conftest import workspace as workspace
from tests.waiting import free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.containers]

# What a clock or a meter says differs from run to run; all else is the same to the last digit. Torch's plain export, the
# baseline of `plain_int8`, holds the paths of torch's own files, so its size depends on where torch is installed.
MEASURED = re.compile(
    r"second|latency|throughput|speedup|megabytes_resident|memory|kwh|co2e|energy|payback|power|milliseconds|peak|wh"
    r"|deciles|samples|runners|inference|settings|plain_int8.*megabytes|machine|version|run_id|examples_per|times|spent"
    r"|conditions|disturbed|joules|foreign_cpus"
)
LOAD_SECONDS = 20


@pytest.fixture(scope="module")
def mlflow_server(images, containers, postgresql, tmp_path_factory):
    """The mlflow image with the command of the compose file, which says where things are there: not here."""
    port = free_port()
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    store = "postgresql+psycopg2://mlflow:${POSTGRES_PASSWORD}@postgresql/mlflow"
    assert store in compose
    service = yaml.safe_load(compose.replace(store, postgresql).replace("5000", str(port)))["services"]["mlflow"]
    settings = [f"--env={name}={value}" for name, value in service["environment"].items()]
    log = tmp_path_factory.mktemp("mlflow") / "server.log"
    process = start(containers, log, "lissom-test-mlflow", *settings, images["mlflow"], *service["command"])
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log=log)
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["podman", "rm", "--force", "lissom-test-mlflow"], env=containers, capture_output=True)


@pytest.fixture(scope="module")
def run(workspace, images, podman_socket, mlflow_server, tmp_path_factory):
    """The workspace in which the pipeline ran by `dvc repro`, and the folder of the same, compiled and in containers."""
    root = tmp_path_factory.mktemp("root")
    (root / "workspace").mkdir()
    result = Workspace(root / "workspace")
    own = {
        "base": PARAMS["base"] | {"model": f"dir:{result.folder}/base"},
        "data": PARAMS["data"]
        | {"source": f"files:{result.folder}/data", "transfer": f"{result.folder}/data/unlabelled.tsv"},
        "cluster": {"tracking_uri": mlflow_server, "backoff_seconds": 0},
    }
    result.write_params(PARAMS | own)
    # The images' user is none of this machine: others must be let in, all the way from pytest's private folder.
    subprocess.run(["chmod", "-R", "a+rX", root], check=True)
    for folder in root.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
    root.chmod(0o777)
    chosen = ["--train-image", images["train"], "--export-image", images["export"]]
    result.run("python", "-m", "lissom.pipelines", "compile", "--output", "compression.yaml", *chosen)
    command = [sys.executable, "-m", "tests.containers.run_locally", str(result.folder / "compression.yaml"), str(root)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DOCKER_HOST": podman_socket}, capture_output=True, text=True, timeout=1200
    )
    log = done.stdout + done.stderr
    actual = [path for path in root.iterdir() if path.name.startswith("lissom-compression")]
    # kfp.local takes a container that ended at once for one that succeeded: only what it left behind counts.
    assert actual and (actual[0] / "register" / "metrics_output" / METRICS).is_file(), log[-5000:]
    return workspace, actual[0]


def tasks():
    """Folder of every task of the compiled pipeline, and of the metrics of the same stage under DVC."""
    single = ("prepare", "teacher", "distill", "prune", "factorize", "quantize", "report", "register")
    for name in single:
        yield name, name
    for stage in ("export", "evaluate"):
        for number, variant in enumerate(STEPS, 1):
            yield f"{stage}-{number}" if number > 1 else stage, f"{stage}/{variant}"


@pytest.mark.parametrize(("task", "stage"), list(tasks()))
def test_figures_equal_those_of_dvc(run, task, stage):
    workspace, folder = run
    report = [
        {name: value for name, value in flatten(json.loads(path.read_text())) if not MEASURED.search(name)}
        for path in (folder / task / "metrics_output" / METRICS, workspace.folder / "metrics" / stage / METRICS)
    ]
    if stage == "register":  # each has a registry of its own
        report = [{name: value for name, value in item.items() if "reason" not in name} for item in report]
    assert report[0] == report[1] and report[0]


def test_weights_equal_those_of_dvc(run):
    workspace, folder = run
    for stage, output in (("teacher", "model_output"), ("distill", "model_output"), ("quantize", "model_output")):
        weights = [folder / stage / output / WEIGHTS, workspace.folder / "artifacts" / stage / WEIGHTS]
        assert weights[0].read_bytes() == weights[1].read_bytes(), stage


def test_stages_ran_as_nobody_in_particular(run):
    _, folder = run
    assert (folder / "teacher" / "model_output" / WEIGHTS).stat().st_uid == 10001


def test_kubeflow_is_told_the_figures(run):
    _, folder = run
    report = json.loads((folder / "teacher" / "executor_output.json").read_text())["artifacts"]
    assert report["metrics_output"]["artifacts"][0]["metadata"]["energy_kwh"] > 0
    assert "<html" in (folder / "report" / "page").read_text()[:500].lower()


@pytest.fixture(scope="module")
def server(run, images, containers, mlflow_server, tmp_path_factory):
    """The serve image with the champion of the registry, as little allowed as it needs."""
    port = free_port()
    limits = [
        "--read-only",
        "--read-only-tmpfs=false",
        "--tmpfs=/tmp",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]
    log = tmp_path_factory.mktemp("serve") / "server.log"
    command = [images["serve"], "lissom", "serve", "--port", str(port)]
    process = start(
        containers, log, "lissom-test-serve", *limits, f"--env=MLFLOW_TRACKING_URI={mlflow_server}", *command
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log=log)
        yield port, process
    finally:
        subprocess.run(["podman", "rm", "--force", "lissom-test-serve"], env=containers, capture_output=True)


def post(port: int, body: bytes, path: str = "/predict") -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_the_server_says_what_the_command_says(run, server):
    workspace, _ = run
    rows = [line.split("\t") for line in (workspace.folder / "data" / "test.tsv").read_text().splitlines()[1:41]]
    texts, pairs = [row[0] for row in rows], [row[1] for row in rows]
    status, answer = post(server[0], json.dumps({"texts": texts, "pairs": pairs}).encode())
    options = [word for pair in pairs for word in ("--pair", pair)]
    shown = workspace.run("lissom", "predict", *texts, *options).stdout.splitlines()[1:]
    assert status == 200
    assert [item["label"] for item in answer["predictions"]] == [line.split()[0] for line in shown]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"texts": ["x" * 30_000], "pairs": ["y"]}).encode(),
        b'{"texts": ["\xff\xfe\xfa"], "pairs": ["y"]}',
        json.dumps({"texts": 3, "pairs": {"a": 1}}).encode(),
        json.dumps({"texts": ["x"]}).encode(),
        b"x" * 10_000_000,
        b"",
    ],
)
def test_the_server_refuses_what_is_no_question(server, body):
    status, answer = post(server[0], body)
    assert 400 <= status < 500 and answer["detail"]


def test_the_server_bears_load(server):
    """From a second process, whose every answer must be a 200 with as many predictions as texts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.containers.load", str(server[0]), str(LOAD_SECONDS)],
        cwd=ROOT, capture_output=True, text=True, timeout=LOAD_SECONDS + 120,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["errors"] == [] and report["answers"] > 100, report


def test_the_server_may_do_little(server, containers):
    command = ["podman", "exec", "lissom-test-serve"]
    user = subprocess.run([*command, "id", "-u"], env=containers, capture_output=True, text=True).stdout
    assert user.strip() == "10001"
    status = subprocess.run([*command, "cat", "/proc/1/status"], env=containers, capture_output=True, text=True).stdout
    assert re.search(r"CapEff:\s+0+\n", status)
    write = subprocess.run([*command, "touch", "/work/file"], env=containers, capture_output=True, text=True)
    assert "Read-only" in write.stderr


def test_the_server_is_light(images, containers):
    """No torch, no transformers, under 450 MB."""
    size = subprocess.run(
        ["podman", "image", "inspect", "--format", "{{.Size}}", images["serve"]],
        env=containers,
        capture_output=True,
        text=True,
    )
    assert int(size.stdout) < 450e6
    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'pip') if u.find_spec(n)])"
    shown = subprocess.run(
        ["podman", "run", "--rm", images["serve"], "python", "-c", code], env=containers, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["serve", "mlflow", "export", "train"])
def test_labels_user_and_entry_point(images, containers, name):
    shown = subprocess.run(["podman", "image", "inspect", images[name]], env=containers, capture_output=True, text=True)
    config = json.loads(shown.stdout)[0]["Config"]
    revision = config["Labels"]["org.opencontainers.image.revision"].removesuffix("-dirty")
    assert subprocess.run(["git", "cat-file", "-t", revision], cwd=ROOT, capture_output=True).stdout == b"commit\n"
    assert config["User"] == "10001:0" and not config.get("Entrypoint")


@pytest.mark.parametrize("name", ["serve", "export"])
def test_nothing_of_this_host_is_baked_in(images, containers, name):
    """Neither pip's settings nor the certificates nor the wheels that were there while building."""
    command = "ls -A /run/secrets /wheels /etc/pip.conf 2>/dev/null; cat /etc/pip.conf 2>/dev/null; env | grep -i '^pip_\\(cert\\|find\\|index\\)'"
    shown = subprocess.run(
        ["podman", "run", "--rm", images[name], "sh", "-c", command], env=containers, capture_output=True, text=True
    )
    assert [line for line in shown.stdout.splitlines() if line.strip() and not line.startswith("/")] == []


def test_the_server_stops_in_peace(server, containers):
    """Last: it ends the server."""
    started = time.monotonic()
    subprocess.run(
        ["podman", "stop", "--time=20", "lissom-test-serve"], env=containers, check=True, capture_output=True
    )
    assert server[1].wait(30) == 0
    assert time.monotonic() - started < 20  # not killed at the end of its time
