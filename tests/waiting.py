"""A port for a server, and the moment from which it answers."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, process: "subprocess.Popen[Any]", seconds: float = 90, log: Path | None = None) -> None:
    """Wait until the address answers. The error quotes the end of the log, where the process wrote one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.1)
    state = "runs" if process.poll() is None else f"ended with {process.returncode}"
    said = log.read_text(errors="replace")[-3000:] if log else ""
    raise AssertionError(f"{address} never answered; the process {state}\n{said}")
