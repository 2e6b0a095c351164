"""Energy of one inference: runners in turn, each for some seconds, again and again, so that an interval can be told."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from lissom.emissions.meter import check_country
from lissom.export.exported import Runner
from lissom.section import Section


class InferenceEnergy(Section):
    """kWh per inference of one runner, one figure for each repetition."""

    kwh: tuple[float, ...]
    inferences: int


def measure_inference_energy(
    runners: Mapping[str, Runner], batches: int, repeats: int, seconds: float, country: str
) -> dict[str, InferenceEnergy]:
    """Let every runner answer single requests as fast as it can, and divide the machine's energy by their number.

    Args:
        runners: by name; called with batch numbers 0, 1, ..., `batches` - 1, over and over.
        batches: number of prepared batches of one example.
        repeats: turns of every runner.
        seconds: length of a turn.
        country: only for CodeCarbon, which wants one.

    Raises:
        InputError: the country is not known.
    """
    from codecarbon import OfflineEmissionsTracker

    check_country(country)
    logging.getLogger("codecarbon").disabled = True
    tracker: Any = OfflineEmissionsTracker(
        country_iso_code=country,
        measure_power_secs=1,
        save_to_file=False,
        allow_multiple_runs=True,
        log_level="critical",
    )
    kwh: dict[str, list[float]] = {name: [] for name in runners}
    counts = dict.fromkeys(runners, 0)
    for repeat in range(repeats):
        for name, runner in runners.items():
            task = f"{name}-{repeat}"
            tracker.start_task(task)
            done = _run_for(seconds, runner, batches)
            data = tracker.stop_task(task)
            if data is None or not data.energy_consumed:
                raise RuntimeError("CodeCarbon returned no figure; run `codecarbon monitor --offline` to see why")
            kwh[name].append(float(data.energy_consumed) / done)
            counts[name] += done
    tracker.stop()
    return {name: InferenceEnergy(kwh=tuple(kwh[name]), inferences=counts[name]) for name in runners}


def _run_for(seconds: float, runner: Runner, batches: int) -> int:
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        runner(done % batches)
        done += 1
    return done
