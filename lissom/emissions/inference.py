"""Energy of one inference: power of a runner while it computes times its undisturbed latency, with an interval.

The energy that a machine uses while a runner makes a certain number of calls would grow with all that delays the calls.
Power and time are therefore measured apart: the time as `lissom.evaluate.latency` does, on one pinned thread, both
sides on the same texts and in turn; the power over blocks in which one runner works without pauses.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from lissom.emissions.meter import JOULES_PER_KWH, EnergyMeter, EnergyReading
from lissom.evaluate.conditions import Conditions, pinned
from lissom.evaluate.latency import Timing, measure_latency
from lissom.export.exported import Runner
from lissom.interval import Interval, interval_of, resamples
from lissom.section import Section

_INFERENCES = 1000
_LARGEST_DIFFERENCE = 1.25


class Power(Section):
    """Power of a runner while its thread computes, in watts."""

    watts: Interval
    method: str
    """`measured` or `model`, as in `EnergyReading`."""


class InferenceEnergy(Section):
    """Joules of 1,000 inferences, one text each."""

    teacher: Interval
    artifact: Interval
    saved: Interval
    """Teacher minus artefact, paired by round."""
    power: dict[str, Power]
    """By runner."""
    conditions: Conditions
    """Of the latencies."""


class TokenEnergy(Section):
    """Joules of 1,000 tokens that are written one by one."""

    joules: dict[str, Interval]
    """By engine."""
    power: dict[str, Power]
    conditions: Conditions
    """Of the times."""


def measure_inference_energy(
    runners: Mapping[str, Runner],
    batches: int,
    *,
    repeats: int,
    seconds: float,
    country: str,
    expected: Mapping[str, float],
) -> InferenceEnergy:
    """Measure the energy of an inference of the runners `teacher` and `artifact` on single texts.

    Args:
        runners: runners by name, which use one thread; called with batch numbers 0, 1, ..., `batches` - 1.
        batches: number of prepared batches of one example.
        repeats: number of blocks over which the power is measured, for each runner.
        seconds: length of one block, and of the timing.
        country: required by CodeCarbon.
        expected: median milliseconds of every runner, as another stage measured them undisturbed. If the median
            of any differs by more than a quarter, the conditions say that the measurement was disturbed.

    Raises:
        InputError: the country is not known.
    """
    timing = measure_latency(runners, [1] * batches, threads=1, seconds=repeats * seconds)
    watts, power = _power_of(runners, batches, repeats, seconds, country)
    return InferenceEnergy(
        teacher=_energy(timing, watts, ("teacher",)),
        artifact=_energy(timing, watts, ("artifact",)),
        saved=_energy(timing, watts, ("teacher", "artifact")),
        power=power,
        conditions=compared_with(timing, expected),
    )


def measure_token_energy(
    runners: Mapping[str, Runner], *, repeats: int, seconds: float, country: str, expected: Mapping[str, float]
) -> TokenEnergy:
    """Measure the energy of a token that is written, in the same way.

    Args:
        runners: functions that write one token, by engine, on one thread.
        repeats: number of blocks over which the power is measured, for each runner.
        seconds: length of one block, and of each runner's share of the timing.
        country: required by CodeCarbon.
        expected: as for `measure_inference_energy`.

    Raises:
        InputError: the country is not known.
    """
    timing = measure_latency(runners, [1], threads=1, seconds=len(runners) * seconds)
    watts, power = _power_of(runners, 1, repeats, seconds, country)
    joules = {name: _energy(timing, watts, (name,)) for name in runners}
    return TokenEnergy(joules=joules, power=power, conditions=compared_with(timing, expected))


def compared_with(timing: Timing, expected: Mapping[str, float]) -> Conditions:
    """Return the conditions of a timing, disturbed if its medians differ from those of another one.

    Args:
        timing: the timing.
        expected: median milliseconds of every runner; empty if no undisturbed ones are known.
    """
    conditions = timing.conditions
    for name, milliseconds in expected.items():
        ratio = timing.latency(name).p50 / milliseconds
        if conditions.disturbed is None and not 1 / _LARGEST_DIFFERENCE < ratio < _LARGEST_DIFFERENCE:
            reason = f"the {name}'s median latency is {ratio:.2f} times the one that `evaluate` measured"
            return conditions.model_copy(update={"disturbed": reason})
    return conditions


def _power_of(
    runners: Mapping[str, Runner], batches: int, repeats: int, seconds: float, country: str
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Power]]:
    """Return the watts of every runner's blocks, `[repeats]`, and their mean with its interval."""
    readings = {
        name: list(_power_blocks(runner, batches, repeats, seconds, country)) for name, runner in runners.items()
    }
    watts = {name: np.asarray([_watts(reading) for reading in blocks]) for name, blocks in readings.items()}
    methods = {name: blocks[0].method for name, blocks in readings.items()}
    return watts, {name: Power(watts=_mean_interval(watts[name]), method=methods[name]) for name in runners}


def _power_blocks(runner: Runner, batches: int, repeats: int, seconds: float, country: str) -> Iterator[EnergyReading]:
    numbers = cycle(range(batches))
    with pinned():
        for _ in range(repeats):
            with EnergyMeter(country) as meter:
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    runner(next(numbers))
            yield meter.reading


def _watts(reading: EnergyReading) -> float:
    """Return the energy of a second in which the thread has its CPU for itself; accelerators do not run it."""
    return (reading.energy_kwh - reading.gpu_kwh) * JOULES_PER_KWH / reading.cpu_seconds


def _energy(timing: Timing, watts: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> Interval:
    """Return the joules of 1,000 inferences of the first runner, minus those of the second if there is one.

    Rounds and power blocks are resampled independently; all runners have the same rounds in a resample.
    """
    times = {name: timing.by_round(name) for name in names}

    def joules(rounds: NDArray[np.int64], blocks: NDArray[np.int64]) -> float:
        values = [float(watts[name][blocks].mean() * np.median(times[name][rounds])) * _INFERENCES for name in names]
        return values[0] - sum(values[1:])

    every_round, every_block = (np.arange(len(values[names[0]])) for values in (times, watts))
    pairs = zip(resamples(len(every_round)), resamples(len(every_block), seed=1), strict=True)
    return interval_of(joules(every_round, every_block), (joules(*pair) for pair in pairs))


def _mean_interval(values: NDArray[np.float64]) -> Interval:
    return interval_of(float(values.mean()), (float(values[indices].mean()) for indices in resamples(len(values))))
