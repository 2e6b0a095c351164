"""Processor cores that this process may use: by its affinity, and by the quota of its control groups.

`docker --cpus` and Kubernetes' CPU limits set a quota and leave the affinity at all cores of the host, so that
libraries start one thread per core and are throttled. Linux counts the quota per period for the group and each of its
parents: `cpu.max` (cgroup v2), or `cpu.cfs_quota_us` and `cpu.cfs_period_us` (v1).
"""

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the number of threads that can compute at the same time, at least 1.

    A quota is rounded down: a thread more than it covers is throttled, and the others wait for it.

    Args:
        root: root of the file system that holds `proc` and `sys`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def core_limit(root: Path = _ROOT) -> int | None:
    """Return `usable_cores` if they are fewer than the machine's; None if libraries may take what they find."""
    cores = usable_cores(root)
    return cores if cores < (os.cpu_count() or 1) else None


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the least quota of this process's control group and its parents, in CPUs; None without one."""
    quotas = (_quota_of(folder) for folder in control_groups(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(root: Path = _ROOT) -> Iterator[Path]:
    """Yield the folders of the control groups that limit this process, up to the mount point.

    A container without a namespace of its own for control groups reads the host's path, which does not exist inside;
    its limit then lies at the mount point.
    """
    seen: set[Path] = set()
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = [".", "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [controllers, "cpu"]
        else:
            continue
        for mount in mounts:
            top = root / "sys/fs/cgroup" / mount
            group = top / path.lstrip("/")
            folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
            new = [folder for folder in folders if folder.resolve() not in seen]  # `cpu` may be a link
            seen.update(folder.resolve() for folder in new)
            yield from new


def _quota_of(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota in ("", "max", "-1"):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # not Linux, or no such group
        return ""
