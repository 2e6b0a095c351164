"""Other load is noticed: by counters that are given, and by a process that really runs beside."""

import os
import subprocess
import sys
import time

import pytest

from lissom.evaluate import conditions
from lissom.evaluate.conditions import Counters, Strain, pinned, read_counters, strain_between, summarize
from tests.unit.test_cores import system

QUIET = Strain(waited=0.0, own=1.0, foreign=0.0, stolen=0.0, throttled=0.0, cpus=4)


def spinning(cpu: int | None = None) -> subprocess.Popen:
    """A process that uses all of a CPU."""
    pin = "" if cpu is None else f"os.sched_setaffinity(0, {{{cpu}}}); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; {pin}print('on', flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def test_shares_are_of_the_time_between_two_readings():
    before = Counters(wall=10, own=5, waited=1, busy=(100, 50), stolen=3, throttled=0)
    after = Counters(wall=14, own=7, waited=2, busy=(104, 51), stolen=3.4, throttled=2)
    strain = strain_between(before, after)
    assert strain == Strain(waited=0.25, own=0.5, foreign=0.75, stolen=pytest.approx(0.1), throttled=0.5, cpus=2)


@pytest.mark.parametrize(
    ("change", "threads", "reference", "word"),
    [
        ({"waited": 0.3}, 1, 1.0, "waited 30%"),
        ({"waited": 0.3}, 4, 1.0, "waited 8%"),
        ({"stolen": 0.2}, 1, 1.0, "hypervisor took 20%"),
        ({"throttled": 0.5}, 1, 1.0, "quota stopped the process 50%"),
        ({"foreign": 1.0}, 4, 1.0, "used 1.0 of 4 CPUs, and 4 threads"),
        ({}, 1, 2.0, "2.0 times as long"),
    ],
)
def test_every_kind_of_disturbance_is_named(change, threads, reference, word):
    strain = Strain(**{**vars(QUIET), **change})
    assert word in strain.reason(threads, reference)


def test_time_that_is_stolen_from_many_others_does_not_disturb_one_thread():
    shared = Strain(**{**vars(QUIET), "stolen": 0.2, "foreign": 19.0, "cpus": 64})
    own = Strain(**{**vars(QUIET), "stolen": 0.2, "cpus": 64})
    assert shared.reason(1, 1.0) is None and "hypervisor took 20%" in own.reason(1, 1.0)


@pytest.mark.parametrize(
    ("groups", "files", "seconds"),
    [
        ("0::/", {"sys/fs/cgroup/cpu.stat": "usage_usec 7\nnr_throttled 3\nthrottled_usec 2500000"}, 2.5),
        ("0::/pod/box", {"sys/fs/cgroup/pod/box/cpu.stat": "throttled_usec 1500000"}, 1.5),
        ("3:cpu:/", {"sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nthrottled_time 4000000000"}, 4.0),
        (
            "3:cpu,cpuacct:/",
            {"sys/fs/cgroup/cpu,cpuacct/cpu.stat": "throttled_time 4000000000"},
            4.0,
        ),  # and a link to it
        ("0::/", {}, 0.0),
    ],
)
def test_time_stopped_by_a_quota_is_read_from_both_versions_of_control_groups(tmp_path, groups, files, seconds):
    root = system(tmp_path, groups, files)
    if "cpuacct" in groups:
        (root / "sys/fs/cgroup/cpu").symlink_to("cpu,cpuacct")
    assert conditions._throttled(root) == seconds


def test_load_on_other_cpus_does_not_disturb_one_thread():
    busy_elsewhere = Strain(**{**vars(QUIET), "foreign": 3.0})
    assert busy_elsewhere.reason(1, 1.1) is None and busy_elsewhere.reason(2, 1.1) is not None
    assert QUIET.reason(4, 1.2) is None


def test_figures_count_with_enough_quiet_rounds_only():
    enough = summarize([QUIET] * 8, [None] * 5 + ["a", "b", "c"], least=5)
    assert (enough.rounds, enough.discarded, enough.disturbed) == (5, 3, None)
    few = summarize([QUIET] * 8, [None] * 4 + ["a", "b", "c", "d"], least=5)
    assert (few.rounds, few.discarded) == (8, 0) and few.disturbed == "4 of 8 rounds were disturbed; in the last one, d"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
def test_a_process_on_the_same_cpu_is_noticed():
    cpu = sorted(os.sched_getaffinity(0))[-1]
    allowed = os.sched_getaffinity(0)
    other = spinning(cpu)
    try:
        os.sched_setaffinity(0, {cpu})
        before = read_counters()
        work(0.5)
        strain = strain_between(before, read_counters())
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, allowed)
    assert strain.reason(1, 1.0) is not None and strain.own < 0.9


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to choose from"
)
def test_a_thread_is_pinned_where_nobody_else_is_and_released_again():
    allowed = os.sched_getaffinity(0)
    busy = sorted(allowed)[-1]
    other = spinning(busy)
    try:
        with pinned() as pin:
            before = read_counters()
            work(0.5)
            pin.renew(before, read_counters())
            assert len(os.sched_getaffinity(0)) == 1
            if len(allowed) == 2 and not _is_loaded(other.pid, min(allowed)):
                assert os.sched_getaffinity(0) == {min(allowed)}
    finally:
        other.kill()
        other.wait()
    assert os.sched_getaffinity(0) == allowed


def _is_loaded(pid: int, cpu: int) -> bool:
    """Return whether something else, such as another test, uses a CPU."""
    before = read_counters()
    time.sleep(0.3)
    after = read_counters()
    return after.busy[cpu] - before.busy[cpu] > 0.1


def test_machines_without_proc_have_no_strain(monkeypatch):
    monkeypatch.setattr(conditions, "_lines", lambda path: [])
    before = read_counters()
    work(0.01)
    strain = strain_between(before, read_counters())
    assert strain.foreign == strain.stolen == strain.throttled == 0 and strain.cpus >= 1
