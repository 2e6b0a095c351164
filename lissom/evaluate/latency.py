"""Latency of several runners, interleaved in one process, so that ratios are robust to other load on the machine.

In each round every runner makes a few calls on the same inputs. The first call of a runner is an untimed warm-up, since
threads and caches are in the state that the previous runner left.
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
    """Milliseconds per call; percentiles with too few samples are None."""

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
    """Measure the latency of every runner on batches 0, 1, ..., `batches` - 1, repeated cyclically.

    Args:
        runners: runners by name, for the same batches.
        batches: number of prepared batches.
        batch_size: examples per batch, for the throughput.
        samples: number of timed calls per runner, at most.
        seconds: time limit after which no new round begins; the first two rounds always run.
    """
    times = {name: [_once(runner, 0)] for name, runner in runners.items()}
    warmup_calls, timed_calls = 0, 1
    # Long calls need no warm-up, which would be expensive; for short calls the first samples are discarded.
    if max(first for first, *_ in times.values()) < _LONG_CALL_SECONDS:
        times = {name: [] for name in runners}
        warmup_calls, timed_calls = 1, _CALLS_PER_TURN
    start, rounds = time.perf_counter(), 0
    while len(next(iter(times.values()))) < samples and (rounds < 2 or time.perf_counter() - start < seconds):
        first = rounds * timed_calls
        for name, runner in runners.items():
            for _ in range(warmup_calls):
                runner(first % batches)
            times[name] += [_once(runner, (first + call) % batches) for call in range(timed_calls)]
        rounds += 1
    return {name: summarize(durations, batch_size) for name, durations in times.items()}


def summarize(seconds: Sequence[float], batch_size: int) -> Latency:
    """Return the statistics of timed calls, given in seconds."""
    milliseconds = np.asarray(seconds) * 1000
    return Latency(
        samples=len(milliseconds),
        mean=float(milliseconds.mean()),
        p50=float(np.percentile(milliseconds, 50)),
        p95=float(np.percentile(milliseconds, 95)) if len(milliseconds) >= _FEWEST_FOR_P95 else None,
        p99=float(np.percentile(milliseconds, 99)) if len(milliseconds) >= _FEWEST_FOR_P99 else None,
        examples_per_second=float(batch_size * len(milliseconds) / milliseconds.sum() * 1000),
        deciles=tuple(float(value) for value in np.percentile(milliseconds, range(0, 101, 10))),
    )


def _once(runner: Runner, batch: int) -> float:
    start = time.perf_counter()
    runner(batch)
    return time.perf_counter() - start
