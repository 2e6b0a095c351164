"""Energy of an inference: power times undisturbed latency, on the same texts, beside other load too."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lissom.emissions import inference
from lissom.emissions.inference import measure_inference_energy
from lissom.emissions.meter import EnergyMeter, EnergyReading, sum_of
from lissom.errors import InputError
from lissom.evaluate.conditions import Conditions, Strain
from lissom.evaluate.latency import Latency, Timing
from lissom.interval import Interval
from tests.unit.test_conditions import spinning, work

QUIET = Conditions(rounds=5, discarded=0, foreign_cpus=0.0, disturbed=None)


def reading(**changes) -> EnergyReading:
    values = {
        "seconds": 2.0, "cpu_seconds": 2.0, "energy_kwh": 3e-6, "error_kwh": 3e-7, "cpu_kwh": 2e-6, "gpu_kwh": 0.0, "ram_kwh": 1e-6,
        "co2e_g": 1e-3, "intensity_g_per_kwh": 380.0, "country": "DEU", "method": "model", "scope": "process",
        "foreign_cpus": 0.0, "tracker": "codecarbon",
    }  # fmt: skip
    return EnergyReading.model_validate(values | changes)


def expected(**milliseconds: float) -> dict[str, Latency]:
    return {name: Latency.model_construct(by_batch=(value,) * 5) for name, value in milliseconds.items()}


def measure(monkeypatch, times, powers, expected=None, conditions=QUIET):
    """Measure with given seconds per call of every round and watts of every block, by runner."""
    seconds = {name: [np.asarray([[value]]) for value in values] for name, values in times.items()}
    numbers = [[place] for place in range(len(times["teacher"]))]
    monkeypatch.setattr(inference, "measure_latency", lambda *_, **__: Timing(seconds, numbers, 1.0, conditions))
    blocks = iter(
        [
            reading(seconds=2.0, cpu_seconds=1.0, energy_kwh=watts / 3.6e6, error_kwh=0.0)
            for values in powers.values()
            for watts in values
        ]
    )
    monkeypatch.setattr(inference, "_power_blocks", lambda *_: (next(blocks) for _ in range(3)))
    runners = {name: lambda number: None for name in times}
    return measure_inference_energy(runners, 4, repeats=3, seconds=1.0, country="DEU", expected=expected or {})


def test_the_interval_of_the_power_covers_its_mean_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        blocks = [reading(energy_kwh=watts * 2 / 3.6e6, error_kwh=0.0) for watts in generator.normal(20, 2, size=3)]
        covered += not inference._power(blocks).watts.excludes(20)
    assert covered > 0.92 * 400  # a bootstrap of three blocks covers three quarters


def counted(**changes) -> EnergyReading:
    return reading(method="measured", **changes)


@pytest.mark.parametrize(("busy", "marked"), [(0, False), (4, False), (7, True)])
def test_blocks_in_which_others_computed_are_repeated_where_one_counter_tells_all(monkeypatch, busy, marked):
    """Others raise what the counter tells by half: a block that is kept would be wrong by as much."""
    monkeypatch.setattr(
        inference, "_power_blocks",
        lambda *_: (counted(foreign_cpus=1.0, energy_kwh=4.5e-6) if n < busy else counted() for n in range(9)),
    )  # fmt: skip
    blocks, reason = inference._power_of({"teacher": lambda number: None}, 1, 3, 1.0, "DEU")
    assert (reason is not None) == marked
    if marked:
        assert "other processes used 1.0 CPUs" in reason and len(blocks["teacher"]) == 9
    else:
        assert inference._power(blocks["teacher"]).watts.value == pytest.approx(3e-6 * 3.6e6 / 2)


def test_a_counted_energy_lies_between_the_share_of_cpu_time_and_the_whole(monkeypatch):
    """Idle power is there with others or without: 8 W idle and 8 W for a busy CPU, of which another process has one."""
    with EnergyMeter("DEU") as meter:
        work(0.1)
    meter._tracker._hardware = [type("Counter", (), {"_mode": "intel_rapl"})()]
    for foreign, told in ((0.0, 16.0), (1.0, 24.0)):
        meter._tracker.final_emissions_data.cpu_energy = told * 10 / 3.6e6
        strain = Strain(waited=0, own=1.0, foreign=foreign, stolen=0, throttled=0, cpus=4)
        outcome = meter._read(10.0, 1e-6, strain)
        cpu = Interval(
            value=outcome.cpu_kwh, low=outcome.cpu_kwh - outcome.error_kwh, high=outcome.cpu_kwh + outcome.error_kwh
        )
        assert outcome.method == "measured" and not cpu.excludes(16.0 * 10 / 3.6e6)
        assert (outcome.error_kwh == 0) == (foreign == 0)


def test_accelerators_do_not_run_an_inference():
    of_cpu, idle = reading(), reading(gpu_kwh=5e-4, energy_kwh=3e-6 + 5e-4)
    assert inference._watts(idle) == pytest.approx(inference._watts(of_cpu))


@pytest.mark.parametrize("used", [False, True])
def test_accelerators_count_where_the_process_has_opened_one(used, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    with EnergyMeter("DEU") as meter:
        work(0.1)
        tracker = meter._tracker
        stop = tracker.stop

        def with_idle_ones():
            result = stop()
            tracker.final_emissions_data.gpu_energy = 2e-3
            return result

        tracker.stop = with_idle_ones
    assert meter.reading.gpu_kwh == (2e-3 if used else 0)
    assert meter.reading.energy_kwh == pytest.approx(
        meter.reading.cpu_kwh + meter.reading.ram_kwh + meter.reading.gpu_kwh
    )


def test_energy_is_power_times_latency(monkeypatch):
    outcome = measure(
        monkeypatch,
        {"teacher": [0.010] * 6, "artifact": [0.001] * 6},
        {"teacher": [20.0] * 3, "artifact": [10.0] * 3},
    )
    assert outcome.teacher.value == pytest.approx(1000 * 0.010 * 20)
    assert outcome.artifact.value == pytest.approx(1000 * 0.001 * 10)
    assert outcome.saved.value == pytest.approx(190) and outcome.saved.low == outcome.saved.high
    assert outcome.power["teacher"].watts.value == 20 and outcome.power["teacher"].method == "model"


def test_both_uncertainties_widen_the_interval(monkeypatch):
    steady, powers = {"teacher": [0.010] * 9, "artifact": [0.001] * 9}, {"teacher": [20.0] * 3, "artifact": [10.0] * 3}
    shaky = steady | {"teacher": [0.008, 0.010, 0.012] * 3}
    flickering = powers | {"teacher": [15.0, 20.0, 25.0]}
    widths = []
    for times, watts in ((steady, powers), (shaky, powers), (steady, flickering), (shaky, flickering)):
        saved = measure(monkeypatch, times, watts).saved
        widths.append(saved.high - saved.low)
    assert widths[0] == 0 < min(widths[1:3]) and widths[3] > max(widths[1:3])


def test_a_latency_unlike_that_of_evaluate_is_marked(monkeypatch):
    times, powers = {"teacher": [0.010] * 5, "artifact": [0.001] * 5}, {"teacher": [9.0] * 3, "artifact": [9.0] * 3}
    same = measure(monkeypatch, times, powers, expected(teacher=10.5, artifact=0.95))
    slower = measure(monkeypatch, times, powers, expected(teacher=10.5, artifact=0.5))
    assert same.conditions.disturbed is None
    assert "the artifact took 2.00 times as long for the same texts" in slower.conditions.disturbed


def test_latencies_are_compared_over_the_texts_that_both_sessions_saw(monkeypatch):
    """A slow model's two sessions come to different numbers of texts, whose lengths differ."""
    times = {"teacher": [0.010, 0.020, 0.090, 0.080, 0.090], "artifact": [0.001] * 5}
    powers = {"teacher": [9.0] * 3, "artifact": [9.0] * 3}
    two = Latency.model_construct(by_batch=(10.0, 20.0))  # their median is a third of that of all five
    gap = Latency.model_construct(by_batch=(None, 20.0, None, 80.0))
    none = Latency.model_construct(by_batch=(None,))
    for teacher in (two, gap, none):
        outcome = measure(monkeypatch, times, powers, {"teacher": teacher})
        assert outcome.conditions.disturbed is None
    assert outcome.teacher.value == pytest.approx(1000 * 9.0 * 0.058)  # the mean of the texts, not their median


def test_beside_a_busy_process_the_quiet_answer_is_found_or_the_figure_is_marked():
    seen = {"teacher": set(), "artifact": set()}

    def runner(name, steps):
        return lambda number: (seen[name].add(number), sum(range(steps)))

    def run():
        runners = {"teacher": runner("teacher", 40_000), "artifact": runner("artifact", 4_000)}
        return measure_inference_energy(runners, 6, repeats=3, seconds=0.3, country="DEU", expected={})

    quiet = run()
    assert seen["teacher"] == seen["artifact"] == set(range(6))
    other = spinning()
    try:
        busy = run()
    finally:
        other.kill()
        other.wait()
    if quiet.conditions.disturbed is None and busy.conditions.disturbed is None:
        assert busy.saved.low / 1.25 < quiet.saved.value < busy.saved.high * 1.25
        assert busy.power["teacher"].watts.value == pytest.approx(quiet.power["teacher"].watts.value, rel=0.25)


def test_a_meter_does_not_count_what_others_do():
    """Two strangers, which are no children of this process: a meter of the machine would count three times as much."""
    command = f"{sys.executable} -c 'while True: pass' >/dev/null 2>&1 & echo $!"
    others = [int(subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout) for _ in range(2)]
    try:
        with EnergyMeter("DEU") as beside:
            work(1.5)
    finally:
        for other in others:
            os.kill(other, signal.SIGKILL)
    assert beside.reading.foreign_cpus > 0.5 and beside.reading.scope == "process"
    if beside.reading.method == "model":  # a power for every second of CPU time
        with EnergyMeter("DEU") as alone:
            work(1.5)
        for part in ("energy_kwh", "cpu_kwh", "ram_kwh"):
            powers = [getattr(reading, part) / reading.cpu_seconds for reading in (beside.reading, alone.reading)]
            assert powers[0] == pytest.approx(powers[1], rel=1e-6)


def test_a_sample_that_is_being_taken_when_the_block_ends_fails_nowhere(monkeypatch):
    failures, waiting = [], []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    with EnergyMeter("DEU") as meter:
        sample = meter._tracker._do_measurements

        def slow_in_the_background():
            sample()
            if threading.current_thread() is not threading.main_thread():
                waiting.append(threading.current_thread())
                time.sleep(0.5)

        meter._tracker._do_measurements = slow_in_the_background
        while not waiting:
            time.sleep(0.01)
    for thread in waiting:
        thread.join()
    assert not failures


_FOREIGN = {
    "pue": "3", "wue": "2", "force_cpu_power": "100000", "force_ram_power": "100000", "force_mode_cpu_load": "true",
    "force_carbon_intensity_g_co2e_kwh": "5", "region": "quebec", "cloud_provider": "gcp", "cloud_region": "us-east1",
    "rapl_include_dram": "true", "rapl_prefer_psys": "true", "tracking_mode": "machine", "country_iso_code": "FRA",
    "gpu_ids": "7", "co2_signal_api_token": "token", "electricitymaps_api_token": "token", "save_to_api": "true",
    "output_methods": "csv", "output_dir": "/nonexistent", "measure_power_secs": "77",
}  # fmt: skip


def _settings(meter: EnergyMeter) -> dict:
    names = [*_FOREIGN.keys() - {"co2_signal_api_token"}, "save_to_file"]
    return {name: getattr(meter._tracker, f"_{name}", None) for name in names} | {
        "intensity": round(meter.reading.intensity_g_per_kwh, 6),
        "token": meter._tracker._electricitymaps_api_token,
    }


@pytest.mark.parametrize("place", ["environment", "home", "folder"])
def test_settings_of_codecarbon_outside_change_nothing(place, monkeypatch, tmp_path):
    with EnergyMeter("DEU") as plain:
        work(0.2)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if place == "environment":
        for name, value in _FOREIGN.items():
            monkeypatch.setenv(f"CODECARBON_{name.upper()}", value)
    else:
        lines = ["[codecarbon]", *(f"{name} = {value}" for name, value in _FOREIGN.items())]
        file = (tmp_path if place == "home" else tmp_path / "here") / ".codecarbon.config"
        file.write_text("\n".join(lines))
    with EnergyMeter("DEU") as meter:
        work(0.2)
    assert _settings(meter) == _settings(plain)
    parts = meter.reading.cpu_kwh + meter.reading.ram_kwh + meter.reading.gpu_kwh
    assert meter.reading.energy_kwh == pytest.approx(parts)


def test_a_damaged_config_of_codecarbon_is_told_before_the_work(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".codecarbon.config").write_text("no section")
    with pytest.raises(InputError, match="config cannot be read"), EnergyMeter("DEU"):
        raise AssertionError("the work has started")


def test_readings_of_machines_add_up():
    total = sum_of([reading(), reading(seconds=3.0, error_kwh=4e-7, method="measured")])
    assert total.energy_kwh == pytest.approx(6e-6) and total.seconds == 3.0 and total.method == "model"
    assert total.error_kwh == pytest.approx(7e-7)  # what others took is unknown in the same way everywhere
    assert total.energy.low == pytest.approx(5.3e-6) and total.energy.high == pytest.approx(6.7e-6)
