"""Latency of several runners, interleaved in one process: the ratio holds even where the machine is shared.

A turn is a few calls of one runner, the first of them untimed (it would pay for the threads and caches that the
runner before left behind); then the next runner has its turn on the same inputs.
"""

import time
from collections.abc import Sequence

import numpy as np

from lissom.export.exported import Runner
from lissom.section import Section

_CALLS_PER_TURN = 4
_LONG_CALL_SECONDS = 0.1
_FEWEST_FOR_P95, _FEWEST_FOR_P99 = 20, 100


class Latency(Section):
    """Milliseconds per call; a percentile that the samples cannot support is None."""

    samples: int
    mean: float
    p50: float
    p95: float | None
    p99: float | None
    examples_per_second: float
    deciles: tuple[float, ...]
    """The 0th, 10th, ... 100th percentile, to draw the distribution."""


def measure_latency(
    runners: dict[str, Runner], batches: int, batch_size: int, samples: int, seconds: float
) -> dict[str, Latency]:
    """Time every runner on batches 0, 1, ..., `batches` - 1, over and over.

    Args:
        runners: by name; all answer the same batches.
        batches: number of prepared batches.
        batch_size: examples in each, for the throughput.
        samples: timed calls for each runner, at most.
        seconds: once this is over no new round begins, but the first two are always run.
    """
    times = {name: [_once(runner, 0)] for name, runner in runners.items()}
    untimed, timed = 0, 1
    # A long call does not notice a cold start, and an untimed one is expensive; short ones start anew, warm.
    if max(first for first, *_ in times.values()) < _LONG_CALL_SECONDS:
        times = {name: [] for name in runners}
        untimed, timed = 1, _CALLS_PER_TURN
    started, rounds = time.perf_counter(), 0
    while len(next(iter(times.values()))) < samples and (rounds < 2 or time.perf_counter() - started < seconds):
        first = rounds * timed
        for name, runner in runners.items():
            for _ in range(untimed):
                runner(first % batches)
            times[name] += [_once(runner, (first + call) % batches) for call in range(timed)]
        rounds += 1
    return {name: summarize(taken, batch_size) for name, taken in times.items()}


def summarize(seconds: Sequence[float], batch_size: int) -> Latency:
    """Turn timed calls into percentiles."""
    taken = np.asarray(seconds) * 1000
    return Latency(
        samples=len(taken),
        mean=float(taken.mean()),
        p50=float(np.percentile(taken, 50)),
        p95=float(np.percentile(taken, 95)) if len(taken) >= _FEWEST_FOR_P95 else None,
        p99=float(np.percentile(taken, 99)) if len(taken) >= _FEWEST_FOR_P99 else None,
        examples_per_second=float(batch_size * len(taken) / taken.sum() * 1000),
        deciles=tuple(float(value) for value in np.percentile(taken, range(0, 101, 10))),
    )


def _once(runner: Runner, batch: int) -> float:
    started = time.perf_counter()
    runner(batch)
    return time.perf_counter() - started
