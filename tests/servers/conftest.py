"""MLflow as a team runs it: a server with PostgreSQL and proxied artifacts. Needs PostgreSQL's programs, not its service."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.waiting import free_port, wait_for


def programs() -> Path | None:
    """Folder of initdb and pg_ctl: Debian keeps one per version, outside PATH."""
    actual = shutil.which("initdb")
    folders = [Path(actual).resolve().parent] if actual else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").is_file()), None)


@pytest.fixture(scope="session")
def postgresql():
    """URI of an empty database of its own."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL: initdb is not here (Debian: apt-get install postgresql)")
    # PostgreSQL refuses to run as root; its user must reach the folder, which pytest's own would not allow.
    data = Path(tempfile.mkdtemp(prefix="lissom-postgresql-"))
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(data, "postgres")
    port = free_port()

    def call(*command: str) -> None:
        subprocess.run([*user, *command], cwd=data, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    call(str(folder / "initdb"), "-D", str(data / "db"), "--auth=trust", "--username=mlflow", "--no-sync")
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1 -c fsync=off"
    call(str(folder / "pg_ctl"), "-D", str(data / "db"), "-o", options, "-w", "-l", str(data / "log"), "start")
    yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    call(str(folder / "pg_ctl"), "-D", str(data / "db"), "-m", "immediate", "stop")
    shutil.rmtree(data)


class MlflowServer:
    """A server that can be killed and started again."""

    def __init__(self, store: str, folder: Path) -> None:
        self.port, self._store, self._folder = free_port(), store, folder
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "2",
            "--backend-store-uri", self._store, "--artifacts-destination", str(self._folder / "artifacts"),
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        wait_for(f"{self.address}/health", self._process)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="session")
def mlflow_server(postgresql, tmp_path_factory):
    server = MlflowServer(postgresql, tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()
