"""The warm server: server.py SOCKET OWNER. Imports what is heavy, then forks a child for every start it is asked for.

It must never import the project itself: every child takes it from its own folder and PYTHONPATH, as `python -m` does. And
it must stay without threads of its own, which a fork would lose.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

HEAVY = [
    "torch", "torch._dynamo", "torch.onnx", "torch.distributed.tensor", "torch.distributed.fsdp",
    "torch.distributed.pipelining", "torch.distributed.tensor.parallel", "torch.utils.data", "torch.utils.flop_counter",
    "torch.optim", "torch.export", "torch.distributed.elastic.multiprocessing.errors",
    "transformers", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert", "transformers.tokenization_utils_tokenizers",
    "mlflow", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.rest_store", "mlflow.data.meta_dataset", "onnx", "onnxscript",
    "codecarbon", "datasets", "pandas", "pyarrow.parquet", "sklearn.linear_model", "sklearn.feature_extraction.text",
    "sklearn.pipeline", "matplotlib.pyplot", "matplotlib.backends.backend_svg",
    "alembic.command", "sqlalchemy.dialects.sqlite", "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.store.model_registry.sqlalchemy_workspace_store", "mlflow.system_metrics.system_metrics_monitor",
    "codecarbon.core.resource_tracker", "codecarbon.external.geography", "torch._export.non_strict_utils",
    "torch._functorch.aot_autograd", "torch._inductor.codecache", "jinja2", "pydantic", "typer", "rich.console", "psutil", "safetensors.torch",
]  # fmt: skip
_NEW_NETWORK, _PARENT_DEATH = 0x40000000, 1  # CLONE_NEWNET, PR_SET_PDEATHSIG
_SECONDS_BETWEEN_LOOKS = 0.05
libc = ctypes.CDLL(None, use_errno=True)


def serve(path: Path, owner: int) -> dict[str, Any] | None:
    """Answer until the session ends; in a child, return what it is to run."""
    listening = socket.socket(socket.AF_UNIX)
    unheard = path.with_suffix(".new")
    listening.bind(str(unheard))
    listening.listen(64)
    unheard.rename(path)  # who sees it can connect
    session = os.pidfd_open(owner)
    while True:
        ready, _, _ = select.select([listening.fileno(), session], [], [], 1.0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if session in ready or not path.exists():
            os._exit(0)
        if not ready:
            continue
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            os.close(session)
            return attend(connection)
        connection.close()


def attend(connection: socket.socket) -> dict[str, Any]:
    """Fork the child and be its guard: one per start, between the child and the client. Returns in the child."""
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    start: dict[str, Any] = json.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
    child = os.fork()
    if child == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.setsid()
        libc.prctl(_PARENT_DEATH, signal.SIGKILL)
        return start
    for file in files:
        os.close(file)
    return guard(connection, child, start["pid"])


def guard(connection: socket.socket, child: int, client: int) -> NoReturn:
    """Do to the child what is done to the client; tell the client how the child ended."""
    for number in range(3):
        os.close(number)
    ended, stopped = os.pidfd_open(child), False
    while True:
        ready, _, _ = select.select([connection.fileno(), ended], [], [], _SECONDS_BETWEEN_LOOKS)
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(OSError):
                connection.send(code.to_bytes(4, "big", signed=True))
            os._exit(0)
        if connection.fileno() in ready:
            signals = b""
            with contextlib.suppress(OSError):
                signals = connection.recv(16)
            for number in signals:
                os.kill(child, number)
            if not signals:  # the client is dead: killed, perhaps with its process group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
        elif stopped != is_stopped(client):
            stopped = not stopped
            os.kill(child, signal.SIGSTOP if stopped else signal.SIGCONT)


def is_stopped(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def run(start: dict[str, Any], path: list[str]) -> None:
    """Become `python -m module`, by what the client has sent."""
    join_network(start["pid"])
    os.umask(start["umask"])
    os.chdir(start["folder"])
    os.environ.clear()
    os.environ.update(start["environment"])
    tempfile.tempdir = None
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    # New objects for the client's files: those of the server believe that they are still its log, which can seek.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if start["unbuffered"] or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    import numpy as np
    import torch

    np.random.seed()
    if os.environ.get("OMP_NUM_THREADS"):  # read when torch was loaded, by the server
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    extra = [item for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item]
    importlib.invalidate_caches()
    if start["module"] == "lissom":
        sys.path[:] = [str(Path(start["program"]).parent), *extra, *path]
        sys.argv = [start["program"], *start["arguments"]]
        runpy.run_path(start["program"], run_name="__main__")
    else:
        sys.path[:] = [start["folder"], *extra, *path]
        sys.argv = ["-m", *start["arguments"]]
        runpy.run_module(start["module"], run_name="__main__", alter_sys=True)


def keep_processor() -> None:
    """Look at the processor once: CodeCarbon does so in every stage, by two more interpreters and a second of waiting."""
    import cpuinfo

    actual = cpuinfo.get_cpu_info()
    cpuinfo.get_cpu_info = lambda: dict(actual)


def join_network(process: int) -> None:
    """Enter the network namespace of the client: two machines are two of them."""
    network = Path(f"/proc/{process}/ns/net")
    if network.readlink() != Path("/proc/self/ns/net").readlink():
        with network.open() as file:
            assert libc.setns(file.fileno(), _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())


if __name__ == "__main__":
    keep_operators = importlib.import_module("onnx_operators").keep_operators  # beside this file
    path = sys.path[1:]  # without the folder of this file
    sys.path[:] = path
    for name in HEAVY:
        importlib.import_module(name)
    # ONNX Runtime has a thread from its import on, and waits for it at the end: forever in a child that lacks it.
    assert not {"lissom", "onnxruntime"} & sys.modules.keys()
    keep_processor()
    keep_operators()
    gc.collect()
    gc.freeze()
    wanted = serve(Path(sys.argv[1]), int(sys.argv[2]))
    if wanted:
        run(wanted, path)
