"""Python processes that start warm: one server has imported what is heavy, and forks a child for every start.

A stage spends most of its seconds on importing torch, transformers and MLflow, and the tests start hundreds. `PATH` of a
workspace begins with a folder whose `python` and `lissom` (client.py) hand `python -m lissom.components.x ...` over to the
server (server.py). All else, and everything while LISSOM_TESTS_COLD is set, is the real interpreter.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

_FOLDER = "LISSOM_TESTS_WARM"
"""Environment variable: a folder that the processes of one test session share."""
SOCKET, LOG = "socket", "log"


def open_session() -> None:
    """Make the session's folder; the server itself starts when the first workspace asks for it."""
    folder = Path(tempfile.mkdtemp(prefix="lissom-warm-"))
    os.environ[_FOLDER] = str(folder)
    tools = folder / "bin"
    tools.mkdir()
    (folder / "owner").write_text(str(os.getpid()))
    for name in ("python", "lissom"):
        real = Path(sys.executable).with_name(name)
        # -I -S: what the client does not need is not imported, which would take longer than all that it does.
        lines = [
            f"#!{sys.executable} -IS",
            "import sys",
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
            "from client import main",
            f"main({str(real)!r}, {str(folder / SOCKET)!r})",
        ]
        (tools / name).write_text("\n".join(lines) + "\n")
        (tools / name).chmod(0o755)


def shared() -> Path:
    """Return the folder that all processes of the session share."""
    return Path(os.environ[_FOLDER])


def close_session() -> None:
    """The server ends when its socket's folder is gone, or with the process that owns the session."""
    if _FOLDER in os.environ:
        shutil.rmtree(os.environ.pop(_FOLDER), ignore_errors=True)


def tools() -> Path | None:
    """Folder for the front of PATH, with the server running; None where no session has been opened."""
    if _FOLDER not in os.environ or os.environ.get("LISSOM_TESTS_COLD"):
        return None
    folder = shared()
    with FileLock(folder / "lock"):
        if not (folder / SOCKET).exists():
            _start(folder)
    return folder / "bin"


def _start(folder: Path) -> None:
    # What modules read while they are imported must be as in a workspace; the rest comes with every start.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    }
    with (folder / LOG).open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py"), folder / SOCKET, (folder / "owner").read_text()],
            cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 300
    while not (folder / SOCKET).exists():
        assert server.poll() is None and time.monotonic() < end, (folder / LOG).read_text()
        time.sleep(0.05)
