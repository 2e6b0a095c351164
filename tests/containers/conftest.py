"""Real containers on this machine: a Debian base, the images on it, podman's socket. Needs root, and says what lacks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock

from tests import warm
from tests.servers.conftest import postgresql as postgresql

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "runc", "debootstrap")
BASE = "localhost/lissom-test-base"
PODMAN_FAILED = 125  # podman-run(1): the error is with podman itself
# As far as root goes in a virtual machine without CAP_SYS_RESOURCE, and on hosts with both versions of cgroups.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "host"
[engine]
runtime = "runc"
"""


def pytest_collection_finish(session):
    """Begin with the images at once, beside the other tests: most of their minutes go by waiting for disks and networks."""
    first = getattr(session.config, "workerinput", {}).get("workerid", "gw0") == "gw0"
    wanted = any(item.path.parent == Path(__file__).parent for item in session.items)
    if not first or not wanted or lacking() or session.config.option.collectonly:
        return
    code = "from tests.containers.conftest import build; build()"
    with (warm.shared() / "build.log").open("wb") as log:
        building = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def stop() -> None:
        with suppress(ProcessLookupError):
            os.killpg(building.pid, signal.SIGTERM)

    session.config.add_cleanup(stop)


def lacking() -> str:
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return "" if os.getuid() == 0 else "needs root"


def environment() -> dict[str, str]:
    """Environment in which podman works here, with the base image made."""
    configuration = warm.shared() / "containers.conf"
    env = os.environ | {"CONTAINERS_CONF": str(configuration)}
    with FileLock(warm.shared() / "base.lock"):
        configuration.write_text(CONFIGURATION)
        if not exists(BASE, env):
            make_base(warm.shared() / "base", env)
    return env


def build() -> subprocess.CompletedProcess:
    """Build the images as `make images` does, with pip's settings of this machine; the second time nothing is to be done."""
    env = environment() | pip_settings() | {"BASE_IMAGE": BASE, "TORCH_INDEX": "", "PREFIX": "lissom-test"}
    with FileLock(warm.shared() / "images.lock"):
        return subprocess.run([ROOT / "docker" / "build.sh"], env=env, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="session")
def containers():
    """Environment in which podman works here."""
    if lacks := lacking():
        pytest.skip(f"containers: {lacks}")
    env = environment()
    tried = subprocess.run(["podman", "run", "--rm", BASE, "true"], env=env, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"containers cannot run here: {tried.stderr.strip().splitlines()[-1]}")
    return env


def make_base(folder: Path, env: dict) -> None:
    """Debian with Python, as small as it comes: what python:3.11-slim is elsewhere."""
    packages = "python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", folder / "root"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    left_out = ["var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*"]
    command = ["tar", "-C", folder / "root", "-c", *(f"--exclude=./{entry}" for entry in left_out), "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packed:
        subprocess.run(["podman", "import", "-", BASE], stdin=packed.stdout, env=env, check=True, capture_output=True)


@pytest.fixture(scope="session")
def images(containers):
    """The images by name."""
    done = build()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {name: f"localhost/lissom-test-{name}:latest" for name in ("serve", "mlflow", "export", "train")}


def pip_settings() -> dict[str, str]:
    """What pip was told here, whether by its environment or by its files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    actual = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    values = {name.rsplit(".", 1)[-1]: value.strip("'") for name, value in actual.items()}
    wanted = {"cert": "PIP_CERT", "index-url": "PIP_INDEX_URL", "find-links": "PIP_FIND_LINKS"}
    return {variable: values[name] for name, variable in wanted.items() if name in values}


def start(env: dict, log: Path, name: str, *words: str) -> subprocess.Popen:
    """`podman run` in the background, what it says in a log; once more where podman itself fails before it runs anything."""
    command = ["podman", "run", "--rm", "--name", name, "--network=host", *words]
    for _ in range(3):
        subprocess.run(["podman", "rm", "--force", "--ignore", name], env=env, capture_output=True)
        with log.open("ab") as said:
            process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        end = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        if process.poll() != PODMAN_FAILED:
            break
    return process


def exists(image: str, env: dict) -> bool:
    return subprocess.run(["podman", "image", "exists", image], env=env).returncode == 0


@pytest.fixture(scope="session")
def podman_socket(containers, tmp_path_factory):
    """Address of podman's socket, which speaks Docker's language."""
    path = tmp_path_factory.mktemp("socket") / "podman.sock"
    service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{path}"], env=containers)
    while not path.exists():
        assert service.poll() is None
        time.sleep(0.1)
    yield f"unix://{path}"
    service.terminate()
    service.wait()
