"""Description of the machine and of package versions, stored with every measurement."""

import importlib.metadata
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

from lissom.serving.cores import core_limit, cpu_quota, usable_cores

_FLAGS_THAT_MATTER = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
_PACKAGES = ("torch", "transformers", "onnxruntime", "onnx", "tokenizers", "numpy", "codecarbon", "mlflow", "dvc")


@cache
def cpu_flags() -> tuple[str, ...]:
    """Return the instruction sets that determine the speed and rounding of integer kernels."""
    present = _cpuinfo("flags").split() or _cpuinfo("Features").split()
    return tuple(flag for flag in _FLAGS_THAT_MATTER if flag in present)


def describe_machine() -> dict[str, Any]:
    """Return processor, its flags, their number, usable cores, the quota of a container in CPUs, memory and system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": list(cpu_flags()),
        "sockets": _sockets(),
        "cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _sockets() -> int:
    """Return the number of processors, each of which has many cores; 1 where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 1
    return len({line for line in lines if line.startswith("physical id")}) or 1


def limit_threads() -> None:
    """Keep torch, and what else uses OpenMP, to the cores that this process may use.

    Without a limit nothing changes, nor where OMP_NUM_THREADS is set: the user has chosen. OpenMP reads the variable
    when it is loaded, and child processes inherit it; a torch that is loaded already is set directly.
    """
    limit = core_limit()
    if limit is None or "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = str(limit)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(limit)


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make or run models."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
