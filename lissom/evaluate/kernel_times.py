"""What a call of an exported file consists of: the time of every kind of kernel on one pinned thread."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from lissom.data.batches import Batch
from lissom.evaluate.conditions import pinned
from lissom.evaluate.figures import KernelTime
from lissom.export.exported import Exported

_CALLS = 50


def kernel_times(exported: Exported, batch: Batch, calls: int = _CALLS) -> tuple[KernelTime, ...]:
    """Return the kernels that answer a batch, by name.

    Args:
        exported: the file.
        batch: what it answers, the same in every call.
        calls: number of calls; the time of a node is its median over them.
    """
    with tempfile.TemporaryDirectory() as folder, pinned():
        records = exported.profile(batch, calls, Path(folder))
        events = [event for path in records for event in json.loads(path.read_text(encoding="utf-8"))]
    return tuple(_by_kernel(events, calls))


def _by_kernel(events: Iterable[Mapping[str, Any]], calls: int) -> Iterable[KernelTime]:
    """Sum the times of nodes by kernel; a node of a branch or a loop runs less or more often than once per call."""
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    names = sorted({kernel for kernel, _ in durations})
    for name in names:
        nodes = [times for (kernel, _), times in durations.items() if kernel == name]
        microseconds = sum(median(times) * len(times) for times in nodes) / calls
        yield KernelTime(kernel=name, nodes=len(nodes), microseconds=microseconds)
