"""Latency of several runners, interleaved in one process, with intervals and with the conditions of the measurement.

A round is a turn of every runner on the same inputs. A turn begins with an untimed call, since threads and caches are
in the state that the previous runner left, and the first call with any input is untimed; fast runners pass over the
inputs several times. A round that other load disturbed does not count and is repeated: also one in which a fixed
computation on as many threads took longer than in the best moment of the whole session. Ratios are of medians over
rounds, paired by round. Slow runners get more time than was asked for, within bounds, until enough batches were timed,
since texts differ in length.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lissom.evaluate.conditions import (
    Conditions,
    Strain,
    pinned,
    read_counters,
    strain_between,
    summarize,
)
from lissom.evaluate.reference_loop import reference_loop
from lissom.export.exported import Runner
from lissom.interval import Interval, bootstrap, ratio_of_medians
from lissom.section import Section

_TURN_SECONDS = 0.08
_MOST_TEXTS, _MOST_PASSES = 32, 200
_LEAST_ROUNDS = 5
_FEWEST_FOR_P95, _FEWEST_FOR_P99 = 20, 100
_STORED = 32
"""Batches whose times are stored one by one, to compare with those of another session."""


class Latency(Section):
    """Milliseconds per call; percentiles with too few samples are None."""

    samples: int
    """Batches of all rounds that count, repeated ones included; passes over a batch within a round are one sample."""
    mean: float
    median: Interval
    """The interval is over rounds."""
    p95: float | None
    p99: float | None
    examples_per_second: float
    """Examples of a call over its median time in a round."""
    deciles: tuple[float, ...]
    """The 0th, 10th, ... 100th percentile, to draw the distribution; empty with fewer samples than p95 needs."""
    by_batch: tuple[float | None, ...]
    """Medians of the first 32 batches, by their number; None for those that no round timed."""

    @property
    def p50(self) -> float:
        """Return the median."""
        return self.median.value


@dataclass(frozen=True)
class Timing:
    """Times of all runners in the rounds that count."""

    seconds: Mapping[str, Sequence[NDArray[np.float64]]]
    """By runner, one array per round: `[passes, batches of the round]`."""
    batches: Sequence[Sequence[int]]
    """Numbers of the batches of every round."""
    examples: float
    """Mean number of examples in a call."""
    conditions: Conditions

    def latency(self, name: str) -> Latency:
        """Return the statistics of a runner."""
        rounds = [turn.ravel() * 1000 for turn in self.seconds[name]]
        calls = np.concatenate(rounds)
        median = bootstrap(lambda indices: float(np.median(np.concatenate([rounds[i] for i in indices]))), len(rounds))
        samples = sum(map(len, self.batches))
        return Latency(
            samples=samples,
            mean=float(calls.mean()),
            median=median,
            p95=float(np.percentile(calls, 95)) if samples >= _FEWEST_FOR_P95 else None,
            p99=float(np.percentile(calls, 99)) if samples >= _FEWEST_FOR_P99 else None,
            examples_per_second=self.examples / float(np.median(self.by_round(name))),
            deciles=tuple(np.percentile(calls, range(0, 101, 10)).tolist()) if samples >= _FEWEST_FOR_P95 else (),
            by_batch=self._by_batch(name),
        )

    def latencies(self) -> dict[str, Latency]:
        """Return the statistics of all runners."""
        return {name: self.latency(name) for name in self.seconds}

    def by_round(self, name: str) -> NDArray[np.float64]:
        """Return a runner's seconds per call, `[rounds]`: the mean over a round's inputs of the median over passes."""
        return np.asarray([np.median(turn, axis=0).mean() for turn in self.seconds[name]])

    def _by_batch(self, name: str) -> tuple[float | None, ...]:
        times: list[list[float]] = [[] for _ in range(min(_STORED, 1 + max(map(max, self.batches))))]
        for numbers, turn in zip(self.batches, self.seconds[name], strict=True):
            for number, seconds in zip(numbers, np.median(turn, axis=0), strict=True):
                if number < len(times):
                    times[number].append(1000 * float(seconds))
        return tuple(float(np.median(values)) if values else None for values in times)

    def ratio(self, slow: str, fast: str) -> Interval:
        """Return how many times as long `slow` takes as `fast`: the ratio of their medians over rounds."""
        return ratio_of_medians(self.by_round(slow), self.by_round(fast))


def measure_latency(
    runners: Mapping[str, Runner], examples: Sequence[int], *, threads: int, seconds: float, retries: int = 2
) -> Timing:
    """Time all runners on the same batches; with one thread, on one CPU that is kept for the calling thread.

    Args:
        runners: runners by name, for the same batches 0, 1, ..., which are repeated cyclically.
        examples: number of examples of every batch.
        threads: number of threads that the runners use.
        seconds: time after which no new round begins, if at least five undisturbed rounds with at least 20 batches
            were made by then.
        retries: how many times `seconds` more are spent until there are as many. If fewer than five rounds are
            undisturbed even then, all rounds are used and `Timing.conditions` says that they were disturbed.
    """
    costs = {name: _calls(runner, [0, 0], 1).min() for name, runner in runners.items()}
    turn_seconds = min(_TURN_SECONDS, seconds / (_LEAST_ROUNDS * len(runners)))
    count = int(np.clip(turn_seconds / max(costs.values()), 1, min(_MOST_TEXTS, len(examples))))
    passes = {name: int(np.clip(turn_seconds / (count * cost), 1, _MOST_PASSES)) for name, cost in costs.items()}
    enough = math.ceil(_FEWEST_FOR_P95 / count)
    rounds: list[dict[str, NDArray[np.float64]]] = []
    numbers: list[list[int]] = []
    strains: list[Strain] = []
    reasons: list[str | None] = []
    spans: list[tuple[float, float]] = []
    warm: set[int] = set()
    start = time.perf_counter()
    with reference_loop(threads) as reference, pinned() if threads == 1 else nullcontext() as pin:
        while not _is_enough(reasons, time.perf_counter() - start, seconds, retries, max(enough, _LEAST_ROUNDS)):
            batches = [(len(rounds) * count + place) % len(examples) for place in range(count)]
            before, references, turns = read_counters(), [reference()], {}
            for name, runner in runners.items():
                for batch in [batch for batch in batches if batch not in warm] or batches[:1]:
                    runner(batch)
                turns[name] = _calls(runner, batches, passes[name])
                references.append(reference())
            after = read_counters()
            warm.update(batches)
            strains.append(strain_between(before, after))
            spans.append((min(references), max(references)))
            best = min(fastest for fastest, _ in spans)
            # A better moment shows that earlier rounds were slow throughout.
            reasons = [
                strain.reason(threads, slowest / best) for strain, (_, slowest) in zip(strains, spans, strict=True)
            ]
            rounds.append(turns)
            numbers.append(batches)
            if pin is not None and reasons[-1] is not None:
                pin.renew(before, after)
    conditions = summarize(strains, reasons, _LEAST_ROUNDS)
    counted = [place for place, reason in enumerate(reasons) if reason is None or conditions.disturbed is not None]
    return Timing(
        {name: [rounds[place][name] for place in counted] for name in runners},
        [numbers[place] for place in counted],
        float(np.mean(examples)),
        conditions,
    )


def _is_enough(reasons: Sequence[str | None], elapsed: float, seconds: float, retries: int, undisturbed: int) -> bool:
    if elapsed < seconds:
        return False
    if sum(reason is None for reason in reasons) >= undisturbed:
        return True
    return elapsed >= seconds * (1 + retries) and len(reasons) >= _LEAST_ROUNDS


def _calls(runner: Runner, batches: Sequence[int], passes: int) -> NDArray[np.float64]:
    """Return the seconds of calls, `[passes, batches]`."""
    seconds = np.empty((passes, len(batches)))
    for row in range(passes):
        for column, batch in enumerate(batches):
            start = time.perf_counter()
            runner(batch)
            seconds[row, column] = time.perf_counter() - start
    return seconds
