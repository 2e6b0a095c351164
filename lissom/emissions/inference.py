"""Energy of one inference, measured repeatedly for each runner in turn, for a confidence interval."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from lissom.emissions.meter import check_country
from lissom.export.exported import Runner
from lissom.section import Section


class InferenceEnergy(Section):
    """kWh per inference of one runner, one value per repetition."""

    kwh: tuple[float, ...]
    inferences: int


def measure_inference_energy(
    runners: Mapping[str, Runner], batches: int, repeats: int, seconds: float, country: str
) -> dict[str, InferenceEnergy]:
    """Run every runner on single requests without pauses, and divide the machine's energy by their number.

    Args:
        runners: runners by name; called with batch numbers 0, 1, ..., `batches` - 1, repeated cyclically.
        batches: number of prepared batches of one example.
        repeats: number of measurements per runner.
        seconds: length of one measurement.
        country: required by CodeCarbon.

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
            count = _run_for(seconds, runner, batches)
            data = tracker.stop_task(task)
            if data is None or not data.energy_consumed:
                raise RuntimeError("CodeCarbon returned no figure; run `codecarbon monitor --offline` to see why")
            kwh[name].append(float(data.energy_consumed) / count)
            counts[name] += count
    tracker.stop()
    return {name: InferenceEnergy(kwh=tuple(kwh[name]), inferences=counts[name]) for name in runners}


def _run_for(seconds: float, runner: Runner, batches: int) -> int:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        runner(count % batches)
        count += 1
    return count
