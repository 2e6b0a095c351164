"""Energy of one inference: power of a runner while it computes times its undisturbed latency, with an interval.

The energy that a machine uses while a runner makes a certain number of calls would grow with all that delays the calls.
Power and time are therefore measured apart: the time as `lissom.evaluate.latency` does, on one pinned thread, both
sides on the same texts and in turn; the power over blocks in which one runner works without pauses. A processor's
counter tells one sum for all processes, so that blocks in which others computed are repeated.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from lissom.emissions.meter import JOULES_PER_KWH, EnergyMeter, EnergyReading
from lissom.evaluate.conditions import Conditions, pinned
from lissom.evaluate.latency import Latency, Timing, measure_latency
from lissom.export.exported import Runner
from lissom.interval import RESAMPLES, Interval, interval_of, resamples
from lissom.section import Section

_INFERENCES = 1000
_LARGEST_DIFFERENCE = 1.25
_MOST_FOREIGN_CPUS = 0.25
_RETRIES = 2
"""How many times as many blocks more are measured in place of those in which others computed."""


class Power(Section):
    """Power of a runner while its thread computes, in watts."""

    watts: Interval
    method: str
    """`measured` or `model`, as in `EnergyReading`."""


class InferenceEnergy(Section):
    """Joules of 1,000 inferences, one text each: the mean over texts, as their lengths differ."""

    teacher: Interval
    artifact: Interval
    saved: Interval
    """Teacher minus artefact, paired by round."""
    power: dict[str, Power]
    """By runner."""
    conditions: Conditions
    """Of latencies and power."""


class TokenEnergy(Section):
    """Joules of 1,000 tokens that are written one by one."""

    joules: dict[str, Interval]
    """By engine."""
    power: dict[str, Power]
    conditions: Conditions
    """Of times and power."""


def measure_inference_energy(
    runners: Mapping[str, Runner],
    batches: int,
    *,
    repeats: int,
    seconds: float,
    country: str,
    expected: Mapping[str, Latency],
) -> InferenceEnergy:
    """Measure the energy of an inference of the runners `teacher` and `artifact` on single texts.

    Args:
        runners: runners by name, which use one thread; called with batch numbers 0, 1, ..., `batches` - 1.
        batches: number of prepared batches of one example.
        repeats: number of blocks over which the power is measured, for each runner.
        seconds: length of one block, and of the timing.
        country: required by CodeCarbon.
        expected: latency of every runner, as another stage measured it undisturbed. If the texts that both timed
            differ by more than a quarter, the conditions say that the measurement was disturbed.

    Raises:
        InputError: the country is not known.
    """
    timing = measure_latency(runners, [1] * batches, threads=1, seconds=repeats * seconds)
    blocks, disturbed = _power_of(runners, batches, repeats, seconds, country)
    return InferenceEnergy(
        teacher=_energy(timing, blocks, ("teacher",)),
        artifact=_energy(timing, blocks, ("artifact",)),
        saved=_energy(timing, blocks, ("teacher", "artifact")),
        power={name: _power(readings) for name, readings in blocks.items()},
        conditions=_marked(compared_with(timing, expected), disturbed),
    )


def measure_token_energy(
    runners: Mapping[str, Runner], *, repeats: int, seconds: float, country: str, expected: Mapping[str, Latency]
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
    blocks, disturbed = _power_of(runners, 1, repeats, seconds, country)
    return TokenEnergy(
        joules={name: _energy(timing, blocks, (name,)) for name in runners},
        power={name: _power(readings) for name, readings in blocks.items()},
        conditions=_marked(compared_with(timing, expected), disturbed),
    )


def compared_with(timing: Timing, expected: Mapping[str, Latency]) -> Conditions:
    """Return the conditions of a timing, disturbed if the same texts took clearly more or less time before.

    Args:
        timing: the timing.
        expected: latency of every runner over the same batches; empty if no undisturbed one is known.
    """
    conditions = timing.conditions
    for name, latency in expected.items():
        both = zip(timing.latency(name).by_batch, latency.by_batch, strict=False)  # as far as both sessions came
        pairs = [(now, then) for now, then in both if now is not None and then is not None]
        ratio = sum(now for now, _ in pairs) / sum(then for _, then in pairs) if pairs else 1.0
        if not 1 / _LARGEST_DIFFERENCE < ratio < _LARGEST_DIFFERENCE:
            return _marked(
                conditions, f"the {name} took {ratio:.2f} times as long for the same texts as when `evaluate` timed it"
            )
    return conditions


def _marked(conditions: Conditions, reason: str | None) -> Conditions:
    if reason is None or conditions.disturbed is not None:
        return conditions
    return conditions.model_copy(update={"disturbed": reason})


def _power_of(
    runners: Mapping[str, Runner], batches: int, repeats: int, seconds: float, country: str
) -> tuple[dict[str, list[EnergyReading]], str | None]:
    """Return the blocks of every runner, `repeats` each, and why they do not count, or None."""
    blocks: dict[str, list[EnergyReading]] = {}
    reason = None
    for name, runner in runners.items():
        quiet: list[EnergyReading] = []
        others: list[EnergyReading] = []
        for reading in _power_blocks(runner, batches, repeats * (1 + _RETRIES), seconds, country):
            (others if _is_shared(reading) else quiet).append(reading)
            if len(quiet) == repeats:
                break
        else:
            reason = (
                f"other processes used {others[-1].foreign_cpus:.1f} CPUs while the processor's energy was counted "
                f"for the {name}"
            )
        blocks[name] = quiet if len(quiet) == repeats else [*quiet, *others]
    return blocks, reason


def _power_blocks(runner: Runner, batches: int, count: int, seconds: float, country: str) -> Iterator[EnergyReading]:
    numbers = cycle(range(batches))
    with pinned():
        for _ in range(count):
            with EnergyMeter(country) as meter:
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    runner(next(numbers))
            yield meter.reading


def _is_shared(reading: EnergyReading) -> bool:
    """Return whether others computed while one counter ran for all; a model of the power does not know of them."""
    return reading.method == "measured" and reading.foreign_cpus > _MOST_FOREIGN_CPUS


def _watts(reading: EnergyReading) -> float:
    """Return the energy of a second in which the thread has its CPU for itself; accelerators do not run it."""
    return (reading.energy_kwh - reading.gpu_kwh) * JOULES_PER_KWH / reading.cpu_seconds


def _power(readings: Sequence[EnergyReading]) -> Power:
    method = "measured" if all(reading.method == "measured" for reading in readings) else "model"
    mean, draw = _mean_watts(readings)
    generator = np.random.default_rng(0)
    return Power(watts=interval_of(mean, (draw(generator) for _ in range(RESAMPLES))), method=method)


def _mean_watts(readings: Sequence[EnergyReading]) -> tuple[float, Callable[[np.random.Generator], float]]:
    """Return the mean power of blocks, and a function that draws it from its distribution.

    That is Student's t, since a bootstrap of some three blocks covers far less than 95 %, plus what is unknown about
    the share of others in a counted energy, evenly distributed.
    """
    watts = np.asarray([_watts(reading) for reading in readings])
    mean = float(watts.mean())
    spread = float(watts.std(ddof=1)) / len(watts) ** 0.5
    unknown = float(np.mean([reading.error_kwh * JOULES_PER_KWH / reading.cpu_seconds for reading in readings]))

    def draw(generator: np.random.Generator) -> float:
        return float(mean + spread * generator.standard_t(len(watts) - 1) + unknown * generator.uniform(-1, 1))

    return mean, draw


def _energy(timing: Timing, blocks: Mapping[str, Sequence[EnergyReading]], names: Sequence[str]) -> Interval:
    """Return the joules of 1,000 inferences of the first runner, minus those of the second if there is one.

    The time is the mean over rounds, not the median, as rounds of a slow runner hold few texts, or one. Rounds are
    resampled, the same ones for all runners, and the power is drawn for each of them.
    """
    times = {name: timing.by_round(name) for name in names}
    powers = {name: _mean_watts(blocks[name]) for name in names}

    def joules(rounds: NDArray[np.int64], watts: Mapping[str, float]) -> float:
        values = [watts[name] * float(times[name][rounds].mean()) * _INFERENCES for name in names]
        return values[0] - sum(values[1:])

    generator, count = np.random.default_rng(1), len(times[names[0]])
    drawn = (
        joules(rounds, {name: draw(generator) for name, (_, draw) in powers.items()}) for rounds in resamples(count)
    )
    return interval_of(joules(np.arange(count), {name: mean for name, (mean, _) in powers.items()}), drawn)
