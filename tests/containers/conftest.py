"""Real containers on this machine: a Debian base, the images on it, podman's socket. Needs root, and says what lacks."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.conftest import postgresql as postgresql

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "runc", "debootstrap")
BASE = "localhost/lissom-test-base"
# As far as root goes in a virtual machine without CAP_SYS_RESOURCE, and on hosts with both versions of cgroups.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "host"
[engine]
runtime = "runc"
"""


@pytest.fixture(scope="session")
def containers(tmp_path_factory):
    """Environment in which podman works here."""
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"containers: {'needs ' + ', '.join(missing) if missing else 'needs root'}")
    configuration = tmp_path_factory.mktemp("podman") / "containers.conf"
    configuration.write_text(CONFIGURATION)
    env = os.environ | {"CONTAINERS_CONF": str(configuration)}
    if not exists(BASE, env):
        make_base(tmp_path_factory.mktemp("base"), env)
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
    command = ["tar", "-C", folder / "root", "-c", *(f"--exclude=./{one}" for one in left_out), "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packed:
        subprocess.run(["podman", "import", "-", BASE], stdin=packed.stdout, env=env, check=True, capture_output=True)


@pytest.fixture(scope="session")
def images(containers):
    """The three images, built as `make images` does, with pip's settings of this machine."""
    env = containers | pip_settings() | {"BASE_IMAGE": BASE, "TORCH_INDEX": "", "PREFIX": "lissom-test"}
    done = subprocess.run([ROOT / "docker" / "build.sh"], env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {name: f"localhost/lissom-test-{name}:latest" for name in ("serve", "mlflow", "export", "train")}


def pip_settings() -> dict[str, str]:
    """What pip was told here, whether by its environment or by its files."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    values = {name.rsplit(".", 1)[-1]: value.strip("'") for name, value in found.items()}
    wanted = {"cert": "PIP_CERT", "index-url": "PIP_INDEX_URL", "find-links": "PIP_FIND_LINKS"}
    return {variable: values[name] for name, variable in wanted.items() if name in values}


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
