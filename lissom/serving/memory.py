"""Peak memory of a process."""

import os
import resource
import sys
from pathlib import Path


def peak_bytes(process: int | None = None) -> int:
    """Return the peak resident set size of a process, by default of this one.

    On Linux from VmHWM: ru_maxrss would still hold the size of the process that this one was forked from. Elsewhere the
    peak of other processes is that of the largest one that has ended.
    """
    status = Path(f"/proc/{process or os.getpid()}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF if process is None else resource.RUSAGE_CHILDREN).ru_maxrss * unit
