"""The timing of the benchmarks: all runners in one process, in turn, so that a table has one session."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from lissom.evaluate.latency import Latency, measure_latency
from lissom.export.exported import Runner

PINNED, ALL = "one pinned core", "all cores"
SETTINGS = (PINNED, ALL)
"""On one pinned thread no runner waits for a core that another process has, so that ratios hold under load."""


def time_in_turn(
    runners: Callable[[int], Mapping[str, Runner]],
    batches: int,
    batch_size: int,
    *,
    setting: str,
    samples: int,
    seconds: float,
) -> dict[str, Latency]:
    """Return the latency of every runner.

    Args:
        runners: makes the runners, given the number of threads.
        batches: number of prepared batches.
        batch_size: examples per batch.
        setting: one of `SETTINGS`.
        samples: timed calls of each runner, at most.
        seconds: time limit.
    """
    with _threads(setting) as threads:
        return measure_latency(dict(runners(threads)), batches, batch_size, samples, seconds)


@contextmanager
def _threads(setting: str) -> Iterator[int]:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    count = 1 if setting == PINNED else threads
    try:
        torch.set_num_threads(count)
        if setting == PINNED:
            os.sched_setaffinity(0, {max(cores)})
        yield count
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
