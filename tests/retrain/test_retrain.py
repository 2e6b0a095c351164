"""Retraining as CI does it: git with a bare remote, DVC with a remote of its own, a stand-in for gh."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from lissom.pipelines.comparison import table
from tests.pipelines.conftest import PARAMS, Workspace, read, start_warm

pytestmark = pytest.mark.slow

GH = """#!/bin/sh
echo "$@" >> "$GH_CALLS"
for file; do [ -f "$file" ] && cat "$file" >> "$GH_CALLS"; done
exit 0
"""


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.com", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


class Project(Workspace):
    """A clone of the bare remote, in which a person or CI works."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder), "CI": "true", "COLUMNS": "200",
            "PATH": f"{tools}:{os.environ['PATH']}", "GH_CALLS": str(tools / "calls"),
            "GITHUB_STEP_SUMMARY": str(tools / "summary.md"),
            "GIT_AUTHOR_NAME": "ci", "GIT_AUTHOR_EMAIL": "ci@example.com",
            "GIT_COMMITTER_NAME": "ci", "GIT_COMMITTER_EMAIL": "ci@example.com",
        }  # fmt: skip
        self.env.pop("MLFLOW_TRACKING_URI", None)
        start_warm(self.env)

    def retrain(self, *options: str, check: bool = True) -> subprocess.CompletedProcess:
        return self.run("python", "-m", "lissom.pipelines.retrain", *options, check=check, timeout=900)


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod((folder / "gh").stat().st_mode | stat.S_IEXEC)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory, tools):
    """The remote, after the first retraining on main."""
    folder = tmp_path_factory.mktemp("remote")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", folder / "lissom.git"], check=True)
    first = Workspace(tmp_path_factory.mktemp("first"))
    git(first.folder, "checkout", "--quiet", "-B", "main")
    fewer = ["teacher", "factorize", "quantize"]
    first.write_params(PARAMS | {"teacher": PARAMS["teacher"] | {"epochs": 2}, "variants": fewer})
    with (first.folder / "params.yaml").open("a") as file:
        file.write("# A comment that stays.\n")
    first.run("dvc", "remote", "add", "--default", "store", str(folder / "store"))
    first.run("dvc", "add", "data")  # as data that is too large for git
    git(first.folder, "add", "--all")
    git(first.folder, "commit", "--quiet", "--message", "start")
    git(first.folder, "remote", "add", "origin", str(folder / "lissom.git"))
    git(first.folder, "push", "--quiet", "origin", "main")
    first.run("dvc", "push")
    project = clone(folder / "lissom.git", tmp_path_factory.mktemp("ci") / "clone", tools)
    done = project.retrain("--commit")
    assert "origin/main holds no figures yet" in done.stdout
    return folder / "lissom.git"


def clone(remote: Path, folder: Path, tools: Path) -> Project:
    git(remote.parent, "clone", "--quiet", str(remote), str(folder))
    return Project(folder, tools)


def test_the_first_run_is_pushed(bare, tools, tmp_path):
    """Whoever clones afterwards and pulls has everything, and nothing is left to do."""
    project = clone(bare, tmp_path / "clone", tools)
    assert git(project.folder, "log", "-1", "--format=%s").startswith("Retrain: accuracy ")
    project.run("dvc", "pull")
    assert (project.folder / "artifacts/export/quantize/model.onnx").is_file()
    assert json.loads(project.run("dvc", "status", "--json").stdout) == {}


def test_a_change_is_retrained_compared_and_commented(bare, tools, tmp_path):
    project = clone(bare, tmp_path / "clone", tools)
    git(project.folder, "checkout", "--quiet", "-b", "smaller")
    (tools / "calls").unlink(missing_ok=True)
    done = project.retrain("--set", "factorize.rank=8", "--pull-request", "7", "--commit")
    assert "Running stage 'factorize'" in done.stdout and "Running stage 'teacher'" not in done.stdout
    text = (project.folder / "retrain.md").read_text()
    assert (
        "**Gates passed**" in text
        and "| MB | " in text
        and "| Wh to compress (" in text
        and "| factorize (word_table) |" in text
    )
    before = json.loads(git(project.folder, "show", "origin/main:metrics/report/metrics.json"))
    after = read(project, "metrics/report/metrics.json")
    assert after["megabytes"] < before["megabytes"]
    assert table(before, after, "origin/main") in text and text.strip() in done.stdout
    called = (tools / "calls").read_text()
    assert called.startswith("pr comment 7 --body-file retrain.md --edit-last --create-if-none") and text in called
    assert text in (tools / "summary.md").read_text()
    assert "rank: 8" in (project.folder / "params.yaml").read_text()
    assert "# A comment that stays." in (project.folder / "params.yaml").read_text()
    assert "origin/smaller" in git(project.folder, "branch", "--remotes")
    other = clone(bare, tmp_path / "other", tools)
    git(other.folder, "checkout", "--quiet", "smaller")
    other.run("dvc", "pull")
    assert json.loads(other.run("dvc", "status", "--json").stdout) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "gates.max_megabytes=0.001"], "gates.max_megabytes is 0.001"),
        (["--max-drop", "-1.5"], "is worse than that of origin/main by 0.0000, --max-drop is -1.5"),
    ],
)
def test_a_failing_gate_fails_with_the_table_and_pushes_nothing(bare, tools, tmp_path, options, says):
    project = clone(bare, tmp_path / "clone", tools)
    store = sorted(path for path in (bare.parent / "store").rglob("*") if path.is_file())
    head = git(bare, "rev-parse", "main")
    done = project.retrain(*options, "--commit", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "**Gates not passed**" in done.stdout and "| MB | " in done.stdout and says in done.stdout
    assert "nothing is pushed" in done.stderr and says in done.stderr
    assert git(bare, "rev-parse", "main") == head
    assert sorted(path for path in (bare.parent / "store").rglob("*") if path.is_file()) == store


def test_a_run_that_breaks_says_so_and_shows_no_old_table(bare, tools, tmp_path):
    project = clone(bare, tmp_path / "clone", tools)
    done = project.retrain("--set", "data.text=nowhere", check=False)
    assert done.returncode == 1 and "before there was a report" in done.stderr
    assert not (project.folder / "retrain.md").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set", "teacher.epoch=3"], "did you mean 'epochs'"),
        (["--base", "nowhere"], "git knows no such revision"),
        (["--remote", "moon"], "DVC knows no such remote"),
        (["--kubeflow"], "cluster.tracking_uri is null"),
    ],
)
def test_mistakes_are_told_before_anything_starts(bare, tools, tmp_path, options, says):
    project = clone(bare, tmp_path / "clone", tools)
    done = project.retrain(*options, check=False)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert git(project.folder, "status", "--porcelain", "--untracked-files=no") == ""


def test_with_an_s3_remote(bare, tools, tmp_path):
    """The same against S3's own protocol: what was pushed there is all that another clone needs."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        boto3.client("s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="testing",
                     aws_secret_access_key="testing").create_bucket(Bucket="lissom")  # fmt: skip
        project = clone(bare, tmp_path / "clone", tools)
        project.env |= keys
        project.run("dvc", "pull")
        project.run("dvc", "remote", "add", "cloud", "s3://lissom/store")
        project.run("dvc", "remote", "modify", "cloud", "endpointurl", address)
        project.run("dvc", "push", "--remote", "cloud")
        project.retrain("--remote", "cloud", "--set", "factorize.rank=12")
        shutil.copytree(project.folder, tmp_path / "moved", ignore=shutil.ignore_patterns("cache", "artifacts", "tmp"))
        moved = Project(tmp_path / "moved", tools)
        moved.env |= keys
        moved.run("dvc", "pull", "--remote", "cloud")
        assert json.loads(moved.run("dvc", "status", "--json").stdout) == {}
        assert (moved.folder / "artifacts/report/report.html").is_file()
    finally:
        server.stop()
