"""Description of the machine and of package versions, stored with every measurement."""

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

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
    """Return processor, its flags, cores, memory and system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": list(cpu_flags()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


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
