"""Cores are those that a container may use, by the files that Linux tells its quota with."""

import os
import subprocess
import sys

import pytest

from lissom import machine
from lissom.serving import classifier, cores

MANY = set(range(8))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: MANY)
    monkeypatch.setattr(os, "cpu_count", lambda: len(MANY))


def system(root, groups: str, files: dict[str, str]):
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota", "usable"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None, 8),
        ("0::/", {"sys/fs/cgroup/cpu.max": "3200000 100000"}, 32, 8),
        ("0::/", {}, None, 8),
        # The parent's limit holds for its children too.
        ("0::/pod/box", {"sys/fs/cgroup/pod/cpu.max": "300000 100000", "sys/fs/cgroup/pod/box/cpu.max": "max 100000"}, 3, 3),
        # A sibling's does not.
        ("0::/pod/box", {"sys/fs/cgroup/pod/other/cpu.max": "100000 100000", "sys/fs/cgroup/pod/box/cpu.max": "400000 100000"}, 4, 4),
        ("4:memory:/x\n3:cpu,cpuacct:/", {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000"}, 3, 3),
        ("3:cpu:/", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None, 8),
        # The host's path, read in a container that has only its own group, at the mount point.
        ("3:cpu:/docker/7f3a", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2, 2),
        # Both versions at once, as on hosts that are in between.
        ("3:cpu:/\n0::/box", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/unified/box/cpu.max": "100000 100000"}, 1, 1),
    ],
)  # fmt: skip
def test_the_quota_of_control_groups_counts(tmp_path, groups, files, quota, usable):
    root = system(tmp_path, groups, files)
    assert cores.cpu_quota(root) == quota
    assert cores.usable_cores(root) == usable
    assert cores.core_limit(root) == (usable if usable < 8 else None)


def test_affinity_counts_where_it_is_less(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    root = system(tmp_path, "0::/", {"sys/fs/cgroup/cpu.max": "600000 100000"})
    assert cores.usable_cores(root) == 2


def test_no_files_no_quota(tmp_path):
    assert cores.cpu_quota(tmp_path) is None


@pytest.fixture
def half_a_cpu(tmp_path, monkeypatch):
    root = system(tmp_path, "0::/", {"sys/fs/cgroup/cpu.max": "50000 100000"})
    for function in (cores.usable_cores, cores.core_limit, cores.cpu_quota):
        monkeypatch.setattr(function, "__defaults__", (root,))


def test_the_machine_tells_its_quota(half_a_cpu):
    described = machine.describe_machine()
    assert described["cores"] == 1 and described["cpu_quota"] == 0.5


def test_torch_keeps_to_the_quota_unless_the_user_chose(half_a_cpu, monkeypatch):
    import torch

    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3" and not chosen
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1" and chosen == [1]


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (3, 3)])
def test_onnxruntime_keeps_to_the_quota_unless_told_otherwise(half_a_cpu, monkeypatch, plain_export, asked, given):
    class Seen(BaseException):  # errors of onnxruntime are converted
        pass

    def session(path, options, providers):
        raise Seen(options.intra_op_num_threads)

    monkeypatch.setattr(classifier.onnxruntime, "InferenceSession", session)
    with pytest.raises(Seen) as seen:
        classifier.OnnxClassifier(plain_export, asked)
    assert seen.value.args == (given,)


def test_processes_of_a_launch_share_the_quota(tmp_path, monkeypatch):
    from lissom.parallel import launch
    from lissom.parallel.config import ParallelParams

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "usable_cores", lambda: 4)
    assert launch._defaults(ParallelParams(data=2))["OMP_NUM_THREADS"] == "2"


def test_a_new_torch_reads_the_limit(tmp_path):
    """In a fresh process, where torch is loaded after the limit is set."""
    code = "from lissom import machine; machine.core_limit = lambda: 1; machine.limit_threads(); import torch; print(torch.get_num_threads())"
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
