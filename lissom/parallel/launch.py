"""Launching the processes of a stage with torchrun; imports no torch.

The stage's command runs itself under torchrun, waits, and forwards signals. On several machines the same command runs
on each, and finds the others by torchrun's environment variables, as Kubeflow Trainer sets them.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from lissom.artifacts import write_text
from lissom.errors import InputError
from lissom.parallel.config import ParallelParams
from lissom.serving.cores import usable_cores
from lissom.storage import scratch_folder

_FOLDER = "LISSOM_LAUNCH"
"""Environment variable: a folder that a launch shares with its processes."""
_MESSAGE, _RUN = "message", "run"
_NODES = ("PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
_OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""By default restarted processes find stale addresses in torchrun's store, and hang."""

_SECONDS_BETWEEN_LOOKS = 0.1
_SET_DEATH_SIGNAL = 1
_LAST_SECONDS = 3.0
_GRACE_SECONDS = 30.0
"""Time for a step and a checkpoint after SIGTERM, as in Kubernetes."""


def is_worker() -> bool:
    """Return whether this process was started by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(module: str, arguments: Sequence[str], params: ParallelParams) -> None:
    """Run `python -m module` with arguments in all processes of this machine, and wait for them.

    If a process fails, all are restarted from the last checkpoint, up to `params.restarts` times.

    Raises:
        InputError: a process reported an error by `report_error`, or they failed too often.
        SystemExit: the launch received SIGTERM or SIGINT.
    """
    with scratch_folder() as folder:
        environment = os.environ | _defaults(params) | _OWN_STORE | {_FOLDER: str(folder)}
        command = [*_torchrun(params, os.environ), "-m", module, *arguments]
        process = psutil.Popen(command, env=environment, preexec_fn=_end_with_parent)
        message = folder / _MESSAGE
        signals = _forward_signals(process)
        last_alive, timed_out = time.monotonic(), False
        while process.poll() is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            last_alive = time.monotonic() if process.children() else last_alive
            if time.monotonic() - last_alive > params.timeout_seconds + _GRACE_SECONDS:
                timed_out = True
                _kill(process)
            # torchrun would restart the processes in vain, or print a long message about its termination.
            if signals or message.is_file():
                psutil.wait_procs(process.children(), _GRACE_SECONDS if signals else _LAST_SECONDS)
                _kill(process)
        report = message.read_text(encoding="utf-8") if message.is_file() else ""
    if signals:
        print(report or f"stopped by {signals[0].name}", file=sys.stderr)
        sys.exit(128 + signals[0])
    if report:
        raise InputError(report)
    if timed_out:
        raise InputError(f"the other nodes did not come within {params.timeout_seconds:g} s (parallel.timeout_seconds)")
    if process.returncode:
        raise InputError(
            f"{params.factors}: they failed {params.restarts + 1} times (parallel.restarts); the first error is above. "
            "Started again, the stage goes on from its last checkpoint"
        )


def report_error(message: str) -> None:
    """Report an error to the launching process, which ends the launch."""
    write_text(Path(os.environ[_FOLDER]) / _MESSAGE, message)


def save_run(run: str) -> None:
    """Store the id of the stage's run, for restarted processes."""
    write_text(Path(os.environ[_FOLDER]) / _RUN, run)


def load_run() -> str | None:
    """Return the id of the run that a previous attempt of this launch opened; None without one."""
    path = Path(os.environ.get(_FOLDER, "/nowhere")) / _RUN
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _torchrun(params: ParallelParams, environment: Mapping[str, str]) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={params.world // params.nodes}"]
    command += [f"--max-restarts={params.restarts}", "--monitor-interval=0.2"]
    if params.nodes == 1:
        return [*command, "--standalone"]
    missing = [name for name in _NODES if name not in environment]
    if missing:
        raise InputError(
            f"parallel.nodes is {params.nodes}: {', '.join(missing)} must be set on each node (its number from 0, "
            "address and a free port of node 0); Kubeflow Trainer does so, see docs/parallel.md"
        )
    place, address, port = (environment[name] for name in _NODES)
    host = "1" if place == "0" else "0"
    return [
        *command, f"--nnodes={params.nodes}", f"--node-rank={place}", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={address}:{port}", "--rdzv-id=lissom",
        f"--rdzv-conf=is_host={host},join_timeout={params.timeout_seconds:.0f}",
    ]  # fmt: skip


def _defaults(params: ParallelParams) -> dict[str, str]:
    """Return defaults for environment variables that the user has not set."""
    threads = max(1, usable_cores() // (params.world // params.nodes))
    variables = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR", "LOGLEVEL": "CRITICAL"}
    return {name: value for name, value in variables.items() if name not in os.environ}


def _forward_signals(process: psutil.Popen) -> list[signal.Signals]:
    """Forward SIGTERM and SIGINT to the processes of torchrun; return a list to which received signals are appended."""
    signals: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        signals.append(signal.Signals(number))
        for child in process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    for terminator in (signal.SIGTERM, signal.SIGINT):
        signal.signal(terminator, note)
    return signals


def _end_with_parent() -> None:
    """Let Linux terminate this process when its parent is killed; torchrun then ends its workers (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def _kill(process: psutil.Popen) -> None:
    for child in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
