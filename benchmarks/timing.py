"""The timing of the benchmarks: all runners in one process, in turn, so that a table has one session."""

from collections.abc import Callable, Mapping, Sequence

import torch

from lissom.evaluate.latency import Timing, measure_latency
from lissom.export.exported import Runner

PINNED, ALL = "one pinned core", "all cores"
SETTINGS = (PINNED, ALL)
"""On one pinned thread no runner waits for a core that another process has, so that ratios hold under load."""
_RETRIES = 3


def time_in_turn(
    runners: Callable[[int], Mapping[str, Runner]], examples: Sequence[int], *, setting: str, seconds: float
) -> Timing:
    """Time all runners on the same batches.

    Args:
        runners: makes the runners, given the number of threads.
        examples: number of examples of every prepared batch.
        setting: one of `SETTINGS`.
        seconds: time of undisturbed measuring.
    """
    every = torch.get_num_threads()
    threads = 1 if setting == PINNED else every
    torch.set_num_threads(threads)
    try:
        return measure_latency(runners(threads), examples, threads=threads, seconds=seconds, retries=_RETRIES)
    finally:
        torch.set_num_threads(every)
