"""`lissom compress`: all stages from one process, with the results of `dvc repro`."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from lissom.artifacts import METRICS, ONNX, STEPS, WEIGHTS
from lissom.tracking.runs import flatten
from tests.containers.test_containers import MEASURED
from tests.pipelines.conftest import Workspace, read, start_warm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A workspace whose pipeline ran by `lissom compress`, which was killed while it distilled and started again."""
    result = Workspace(tmp_path_factory.mktemp("compress"), starts_warm=False)
    result.kill_when("checkpoints/distill/*", "lissom", "compress")
    assert (result.folder / "artifacts/teacher").is_dir() and not (result.folder / "artifacts/distill").exists()
    result.log = result.run("lissom", "compress").stderr
    start_warm(result.env)
    return result


def test_a_killed_run_goes_on_and_repeats_nothing(compressed):
    lines = [line.strip() for line in compressed.log.splitlines() if re.match(r" *\d+/19 ", line)]
    assert len(lines) == 19
    assert [line for line in lines if line.endswith("up to date")] == [
        "1/19 prepare: up to date",
        "2/19 teacher: up to date",
    ]


@pytest.mark.parametrize("stage", STEPS)
def test_weights_and_exports_are_those_of_dvc(compressed, workspace, stage):
    for path in (f"artifacts/{stage}/{WEIGHTS}", f"artifacts/export/{stage}/{ONNX}"):
        assert (compressed.folder / path).read_bytes() == (workspace.folder / path).read_bytes(), path


def test_figures_are_those_of_dvc(compressed, workspace):
    for path in sorted((workspace.folder / "metrics").rglob(METRICS)):
        stage = path.relative_to(workspace.folder)
        if "register" in path.parts:
            continue  # the version and its aliases depend on what was registered before
        own, expected = (
            {name: value for name, value in flatten(json.loads(file.read_text())) if not MEASURED.search(name)}
            for file in (compressed.folder / stage, path)
        )
        assert own == expected, stage
        assert own or "emissions" in path.parts  # all of whose figures a meter says


def test_the_registry_and_the_runs_are_those_of_dvc(compressed, workspace):
    assert read(compressed, "metrics/register/metrics.json")["aliases"] == ["challenger", "champion"]
    finished = set(compressed.run_names())
    assert finished == set(workspace.run_names())


def test_only_what_has_changed_runs_again(compressed):
    again = compressed.run("lissom", "compress", "--set", "gates.max_megabytes=2").stderr
    assert [line for line in again.splitlines() if "/19 " in line and "up to date" not in line] == [
        line for line in again.splitlines() if line.startswith("19/19 register: ")
    ]


def test_a_failing_stage_ends_it_with_its_message(compressed):
    done = compressed.run("lissom", "compress", "--set", "gates.max_megabytes=0.0001", check=False)
    assert (
        done.returncode == 1
        and "is registered without an alias" in done.stderr
        and "gates.max_megabytes is 0.0001" in done.stderr
    )
    assert "lissom: register failed" in done.stderr and "Traceback" not in done.stderr


def test_sigterm_is_passed_on(compressed, tmp_path):
    own = compressed.copied_to(tmp_path / "own")
    command = ["lissom", "compress", "--set", "teacher.epochs=50"]
    process = subprocess.Popen(command, cwd=own.folder, env=own.env, stderr=subprocess.PIPE, text=True)
    while not list((own.folder / "checkpoints").glob("teacher/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in errors


def test_the_parent_has_no_thread_that_a_fork_would_lose():
    code = "import sys, threading; from lissom.pipelines.compress import warm_up; warm_up(); print('onnxruntime' in sys.modules, threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
