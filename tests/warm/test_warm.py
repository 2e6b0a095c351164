"""A warm start is a start: the same words, folder, environment, output, exit code, signals and death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm

PROBE = """
import os, signal, sys, time
print(sys.argv[1:], os.getcwd(), os.environ.get("PROBE"), sys.modules["__main__"].__name__, os.getpid(), flush=True)
if "wait" in sys.argv:
    time.sleep(100)
if "fail" in sys.argv:
    raise ValueError("on purpose")
sys.exit(3)
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "lissom" / "components" / "probe").mkdir(parents=True)
    (tmp_path / "lissom" / "__init__.py").touch()
    (tmp_path / "lissom" / "components" / "__init__.py").touch()
    (tmp_path / "lissom" / "components" / "probe" / "__main__.py").write_text(PROBE)
    started = []

    def call(*words: str) -> subprocess.Popen:
        # Of the session's own folders only the tools: the module must come from the folder of the caller.
        env = {"PATH": f"{warm.tools()}:{os.environ['PATH']}", "PROBE": "here"}
        command = ["python", "-m", "lissom.components.probe", *words]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield call
    for item in started:
        item.kill()


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def becomes(process: int, wanted: str) -> bool:
    end = time.monotonic() + 20
    while state(process) not in wanted.split() and time.monotonic() < end:
        time.sleep(0.02)
    return state(process) in wanted.split()


def test_words_folder_environment_and_exit_code_pass(start, tmp_path):
    process = start("--a", "b c")
    output, errors = process.communicate(timeout=60)
    assert output.rsplit(" ", 1)[0] == f"['--a', 'b c'] {tmp_path} here __main__" and not errors
    assert process.returncode == 3


def test_the_code_is_that_of_the_moment(start, tmp_path):
    start().wait(60)
    (tmp_path / "lissom" / "components" / "probe" / "__main__.py").write_text("print('edited')")
    assert start().communicate(timeout=60)[0] == "edited\n"


def test_an_error_ends_with_its_traceback(start):
    process = start("fail")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "ValueError: on purpose" in errors and "Traceback" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_process_ends_the_work(start, number):
    process = start("wait")
    worker = int(process.stdout.readline().split()[-1])
    assert worker != process.pid and becomes(worker, "S")
    process.send_signal(number)
    assert process.wait(20) == -number and becomes(worker, "gone")


def test_a_killed_worker_is_a_killed_process(start):
    process = start("wait")
    os.kill(int(process.stdout.readline().split()[-1]), signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL


def test_a_stopped_process_does_not_work(start):
    process = start("wait")
    worker = int(process.stdout.readline().split()[-1])
    process.send_signal(signal.SIGSTOP)
    assert becomes(worker, "T")
    process.send_signal(signal.SIGCONT)
    assert becomes(worker, "S R")


def test_all_else_is_the_real_interpreter(start):
    env = os.environ | {"PATH": f"{warm.tools()}:{os.environ['PATH']}"}
    code = "import sys; print(sys.executable, 'torch' in sys.modules)"
    shown = subprocess.run(["python", "-c", code], env=env, capture_output=True, text=True).stdout
    assert shown.split() == [sys.executable, "False"]
