"""Conditions of a timing: whether other processes, the hypervisor or a CPU quota took time from this process.

Read from /proc and the cgroup on Linux. Where a source is missing, its share is 0, and a reference loop that is timed
between the calls still shows most disturbances.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lissom.section import Section
from lissom.serving.cores import control_groups

_MOST_WAITED = 0.05
_MOST_STOLEN = 0.05
_MOST_EXCESS_CORES = 0.25
_MOST_REFERENCE_SPREAD = 1.3
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_BUSY_COLUMNS = (0, 1, 2, 5, 6)
"""user, nice, system, irq and softirq of /proc/stat (proc(5)); guest time is part of user time."""
_STEAL_COLUMN = 7


@dataclass(frozen=True)
class Counters:
    """Readings of one moment, in seconds since some origin."""

    wall: float
    own: float
    """CPU time of this process and of its children that have ended."""
    waited: float
    """Time that threads of this process were ready to run but waited for a CPU, summed over threads."""
    busy: tuple[float, ...]
    """Busy time of every CPU of the machine."""
    stolen: float
    """Time that the hypervisor ran other machines while this one was ready, summed over CPUs."""
    throttled: float
    """Time that the CPU quota of the cgroup stopped this process."""


@dataclass(frozen=True)
class Strain:
    """What happened between two readings, as shares of the time between them."""

    waited: float
    """Time waited for a CPU, in threads."""
    own: float
    """CPUs that this process kept busy."""
    foreign: float
    """CPUs that other processes kept busy."""
    stolen: float
    throttled: float
    cpus: int
    """CPUs of the machine."""

    def reason(self, threads: int, reference: float) -> str | None:
        """Return why a timing between the readings does not count, or None if it does.

        Args:
            threads: number of threads that were timed.
            reference: slowest time of the reference loop between the readings, over the fastest one that is known.
        """
        # With a free CPU left for them, other processes take nothing from us; run queues show it if they do.
        excess = self.foreign + threads - self.cpus
        if self.waited / threads > _MOST_WAITED:
            return f"threads waited {self.waited / threads:.0%} of the time for a CPU that others used"
        if self.throttled > _MOST_STOLEN:
            return f"the CPU quota stopped the process {self.throttled:.0%} of the time"
        # Time is stolen from CPUs that have work, so that ours is the part of what we keep busy.
        stolen = self.stolen * self.own / max(self.own + self.foreign, 1e-9) / threads
        if stolen > _MOST_STOLEN:
            return f"the hypervisor took {stolen:.0%} of a CPU"
        if excess > _MOST_EXCESS_CORES:
            return f"other processes used {self.foreign:.1f} of {self.cpus} CPUs, and {threads} threads were timed"
        if reference > _MOST_REFERENCE_SPREAD:
            return f"a fixed computation took {reference:.1f} times as long in one moment as in another"
        return None


class Conditions(Section):
    """Summary of the conditions of a measurement."""

    rounds: int
    """Rounds that count."""
    discarded: int
    """Rounds that were disturbed and do not count."""
    foreign_cpus: float
    """Mean number of CPUs that other processes kept busy, over all rounds."""
    disturbed: str | None
    """Why the figures do not count: too few rounds were undisturbed. None if they do count."""


def read_counters() -> Counters:
    """Return the present readings."""
    cpus = [line.split()[1:] for line in _lines(Path("/proc/stat")) if line.startswith("cpu") and line[3].isdigit()]
    return Counters(
        wall=time.perf_counter(),
        own=time.process_time() + sum(os.times()[2:4]),
        waited=_waited(),
        busy=tuple(sum(int(columns[place]) for place in _BUSY_COLUMNS) / _TICKS for columns in cpus),
        stolen=sum(int(columns[_STEAL_COLUMN]) for columns in cpus) / _TICKS,
        throttled=_throttled(),
    )


def strain_between(before: Counters, after: Counters) -> Strain:
    """Return what happened between two readings."""
    seconds = after.wall - before.wall
    busy = sum(after.busy) - sum(before.busy)
    return Strain(
        waited=max(0.0, after.waited - before.waited) / seconds,
        own=(after.own - before.own) / seconds,
        foreign=max(0.0, busy - (after.own - before.own)) / seconds,
        stolen=max(0.0, after.stolen - before.stolen) / seconds,
        throttled=max(0.0, after.throttled - before.throttled) / seconds,
        cpus=len(after.busy) or os.cpu_count() or 1,
    )


def reference_seconds() -> float:
    """Return the time of a fixed computation of about a millisecond; the least of three, to leave out interrupts."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        sum(range(20_000))
        times.append(time.perf_counter() - start)
    return min(times)


class Pin:
    """Keeps the calling thread on one CPU, the one that others use least."""

    def __init__(self) -> None:
        self._allowed = sorted(os.sched_getaffinity(0))
        self._cpu = self._allowed[-1]

    def renew(self, before: Counters, after: Counters) -> None:
        """Move to the CPU that others used least between two readings, if it is clearly better than the present one."""
        seconds = after.wall - before.wall
        loads = {cpu: (after.busy[cpu] - before.busy[cpu]) / seconds for cpu in self._allowed if cpu < len(after.busy)}
        if self._cpu in loads:
            loads[self._cpu] -= (after.own - before.own) / seconds
            idlest = min(loads, key=lambda cpu: loads[cpu])
            if loads[idlest] < loads[self._cpu] - _MOST_EXCESS_CORES:
                self._cpu = idlest
        os.sched_setaffinity(0, {self._cpu})


@contextmanager
def pinned() -> Iterator[Pin | None]:
    """Keep the calling thread on one CPU within the block; None where the system cannot do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    before = read_counters()
    time.sleep(5 / _TICKS)
    pin = Pin()
    try:
        pin.renew(before, read_counters())
        yield pin
    finally:
        os.sched_setaffinity(0, allowed)


def summarize(strains: list[Strain], reasons: list[str | None], least: int) -> Conditions:
    """Return the conditions of rounds, given each round's strain and why it does not count.

    Args:
        strains: one per round.
        reasons: one per round; None if it counts.
        least: number of undisturbed rounds that a figure needs.
    """
    counted = sum(reason is None for reason in reasons)
    disturbances = [reason for reason in reasons if reason is not None]
    disturbed = None
    if counted < least:
        disturbed = f"{len(disturbances)} of {len(reasons)} rounds were disturbed; in the last one, {disturbances[-1]}"
    return Conditions(
        rounds=counted if disturbed is None else len(reasons),
        discarded=len(disturbances) if disturbed is None else 0,
        foreign_cpus=float(np.mean([strain.foreign for strain in strains])),
        disturbed=disturbed,
    )


def _waited() -> float:
    nanoseconds = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            nanoseconds += int(task.read_text().split()[1])
        except (OSError, IndexError):  # a thread ended
            continue
    return nanoseconds / 1e9


def _throttled(root: Path = Path("/")) -> float:
    """Return the seconds for which the quotas of this process's control group and its parents have stopped it."""
    seconds = 0.0
    for folder in control_groups(root):
        values = dict(line.split() for line in _lines(folder / "cpu.stat"))
        seconds += int(values.get("throttled_usec", 0)) / 1e6 + int(values.get("throttled_time", 0)) / 1e9  # v2, v1
    return seconds


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
