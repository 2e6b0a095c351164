"""Two machines, as network namespaces of this one, and a cable between them that is pulled out."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from tests.distributed.test_launch import (  # noqa: F401
    same,
    start,
    teacher,
    undisturbed,
    weights,
    when_checkpointed,
    workspace,
)
from tests.waiting import free_port

pytestmark = pytest.mark.slow

ADDRESSES = ("10.231.77.1", "10.231.77.2")


def ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr


@contextmanager
def two_machines():
    """Names of two network namespaces joined by a cable: nothing else reaches them."""
    names = [f"lissom-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable0", "netns", names[0], "type", "veth", "peer", "name", "cable1", "netns", names[1])
        for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"cable{number}")
            ip("-n", name, "link", "set", f"cable{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


@pytest.fixture(scope="module")
def machines():
    if os.getuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2 (Debian: apt-get install iproute2)")
    probe = subprocess.run(["ip", "netns", "add", "lissom-probe"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"network namespaces cannot be made here: {probe.stderr.strip()}")
    ip("netns", "del", "lissom-probe")
    with two_machines() as names:
        yield names


def both(workspace, machines, out: str, *overrides: str):  # noqa: F811
    """Start the same stage on both machines."""
    port, started = free_port(), []
    for number, (name, address) in enumerate(zip(machines, ADDRESSES, strict=True)):
        command = ["ip", "netns", "exec", name, *teacher(workspace, out, "parallel.nodes=2", *overrides)]
        environment = {
            "PET_NODE_RANK": str(number), "PET_MASTER_ADDR": ADDRESSES[0], "PET_MASTER_PORT": str(port),
            "PET_LOCAL_ADDR": address, "GLOO_SOCKET_IFNAME": f"cable{number}",
            "OMP_NUM_THREADS": "1",  # as on one machine with two processes: the order of sums is part of the result
        }  # fmt: skip
        started.append(start(workspace, command, **environment))
    return started


def test_a_machine_that_is_cut_off_is_named_and_the_training_goes_on_later(workspace, undisturbed, machines):  # noqa: F811
    quick = ("parallel.timeout_seconds=6", "parallel.restarts=0")
    first, second = both(workspace, machines, "nodes", *quick)
    when_checkpointed(workspace, "nodes", first)
    ip("-n", machines[1], "link", "set", "cable1", "down")
    said = [item.communicate(timeout=120)[0] for item in (first, second)]
    assert first.returncode == second.returncode == 1, said
    report = "".join(said)
    assert "waited for 6 s" in report
    assert "has given no sign of life" in report or "which keeps the job's store, has not answered" in report
    assert not (workspace.folder / "nodes" / "model").exists()

    ip("-n", machines[1], "link", "set", "cable1", "up")
    again = both(workspace, machines, "nodes", "parallel.timeout_seconds=60")
    for item in again:
        output, _ = item.communicate(timeout=240)
        assert item.returncode == 0, output
    assert same(weights(workspace, "nodes"), undisturbed)


def test_without_addresses_a_node_says_what_it_needs(workspace):  # noqa: F811
    done = workspace.run(*teacher(workspace, "alone", "parallel.nodes=2"), check=False)
    assert done.returncode == 1 and "PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT must be set" in done.stderr
