"""Stages under torchrun, as a user starts them: a killed process, a hung one, SIGTERM, a user's mistake, two machines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.pipelines.conftest import PARAMS, Workspace

pytestmark = pytest.mark.slow

TEACHER = PARAMS["teacher"] | {"epochs": 6}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    result = Workspace(tmp_path_factory.mktemp("launch"))
    result.write_params(PARAMS | {"teacher": TEACHER, "parallel": {"data": 2}})
    result.run(
        "python", "-m", "lissom.components.prepare", "--data-output", "data-out", "--metrics-output", "metrics-out"
    )
    return result


def teacher(workspace, out: str, *overrides: str) -> list[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    return [
        sys.executable, "-m", "lissom.components.teacher", *settings, "--checkpoints", f"{out}/checkpoints",
        "--data-input", "data-out", "--model-output", f"{out}/model", "--logits-output", f"{out}/logits",
        "--metrics-output", f"{out}/metrics",
    ]  # fmt: skip


def start(workspace, command, **env) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=workspace.folder, env=workspace.env | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def ranks(launcher: subprocess.Popen) -> dict[int, int]:
    """Process ids of the launch's processes, by rank."""
    actual = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = dict(
                part.partition("=")[::2]
                for part in path.read_text().split("\0")
                if part.startswith(("RANK=", "LOCAL_RANK="))
            )
            process = int(path.parent.name)
            # What a rank starts itself, such as a tool that reads the machine's power, inherits its environment.
            if "RANK" in environment and _descends(process, launcher.pid) and _rank_of(_parent(process)) is None:
                actual[int(environment["RANK"])] = process
        except (OSError, UnicodeDecodeError):
            continue
    return actual


def _descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = _parent(process)
    return False


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _rank_of(process: int) -> str | None:
    parts = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next((part for part in parts if part.startswith("RANK=")), None)


def when_checkpointed(workspace, out: str, process: subprocess.Popen, timeout: float = 120) -> dict[int, int]:
    """Wait for a checkpoint of the middle of the training; return the processes by rank."""
    path, end = (
        workspace.folder / out / "checkpoints" / "teacher" / "training" / "state.json",
        time.monotonic() + timeout,
    )
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        try:
            if json.loads(path.read_text())["step"] >= 5:
                return ranks(process)
        except (OSError, ValueError):
            time.sleep(0.005)
    raise AssertionError("no checkpoint appeared")


def weights(workspace, out: str):
    return load_file(workspace.folder / out / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(workspace):
    workspace.run(*teacher(workspace, "undisturbed"))
    return weights(workspace, "undisturbed")


def same(left, right) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_a_killed_process_is_replaced_and_nothing_is_lost(workspace, undisturbed):
    process = start(workspace, teacher(workspace, "killed"))
    os.kill(when_checkpointed(workspace, "killed", process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert same(weights(workspace, "killed"), undisturbed)
    assert workspace.run_names().count("teacher") == 2  # of the two stages that were started, however often


def test_nothing_goes_on_without_the_launch(workspace):
    process = start(workspace, teacher(workspace, "orphaned", "teacher.epochs=60"))
    workers = when_checkpointed(workspace, "orphaned", process)
    process.kill()
    end = time.monotonic() + 60
    while alive := [worker for worker in workers.values() if _is_running(worker)]:
        assert time.monotonic() < end, f"{alive} train for nobody, and hold the output"
        time.sleep(0.1)
    process.communicate(timeout=60)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sigterm_checkpoints_and_a_new_start_goes_on(workspace, undisturbed):
    process = start(workspace, teacher(workspace, "stopped"))
    when_checkpointed(workspace, "stopped", process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM after step" in output and "start it again to go on" in output
    assert not (workspace.folder / "stopped" / "model").exists()
    step = json.loads((workspace.folder / "stopped/checkpoints/teacher/training/state.json").read_text())["step"]
    again = workspace.run(*teacher(workspace, "stopped"))
    assert again.returncode == 0 and step >= 5
    assert same(weights(workspace, "stopped"), undisturbed)
    for out, resumed in (("stopped", True), ("undisturbed", False)):  # the energy of the first part is not known
        assert json.loads((workspace.folder / out / "metrics/emissions.json").read_text())["resumed"] is resumed


@pytest.mark.parametrize(
    ("hung", "report"),
    [
        (0, "rank 0 (replica 0, pipeline stage 1 of 1, tensor 0), which keeps the job's store, has not answered"),
        (1, "rank 1 (replica 1, pipeline stage 1 of 1, tensor 0) has given no sign of life"),
    ],
)
def test_a_hung_process_is_named(hung, report, workspace):
    settings = ("parallel.timeout_seconds=5", "parallel.restarts=0", "teacher.epochs=60")
    process = start(workspace, teacher(workspace, f"hung-{hung}", *settings))
    os.kill(when_checkpointed(workspace, f"hung-{hung}", process)[hung], signal.SIGSTOP)
    started = time.monotonic()
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1 and time.monotonic() - started < 60
    assert f"rank {1 - hung} waited for 5 s" in output and report in output


def test_a_users_mistake_is_told_once_and_not_tried_again(workspace):
    broken = workspace.folder / "broken-base"
    shutil.copytree(workspace.folder / "base", broken)
    (broken / "config.json").unlink()
    done = workspace.run(*teacher(workspace, "mistake", "base.model=dir:broken-base"), check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("teacher: ") == 1 and "config.json" in done.stderr and "Traceback" not in done.stderr
