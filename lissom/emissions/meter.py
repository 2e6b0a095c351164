"""Energy and CO2e of a block of work, by CodeCarbon, offline.

If the processor counts its energy (RAPL), the count is of the whole machine, and how much of it would be there without
the others is not known: at least this process's share of the CPU time, at most all. The middle is taken, and
`EnergyReading.error_kwh` reaches to both ends. Otherwise the energy is a model: the thermal design power of a CPU
times the CPU time of this process and its ended children, as the kernel counts it. The power of the memory is a model
in any case, and its share is that of the CPU time as well.
No part of a model depends on how long the process waited, so that other load changes none. `EnergyReading.method`
says which.
"""

import configparser
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from threading import Thread
from types import TracebackType
from typing import Any, Literal

from lissom.errors import InputError
from lissom.evaluate.conditions import Strain, read_counters, strain_between
from lissom.interval import Interval
from lissom.section import Section

JOULES_PER_KWH = 3.6e6

_SECONDS_BETWEEN_SAMPLES = 1
_COUNTED_BY_HARDWARE = ("intel_rapl", "intel_power_gadget", "windows_emi")


class EnergyReading(Section):
    """Time, energy and emissions of a block of work."""

    seconds: float
    cpu_seconds: float
    """CPU time of this process and of its children that ended."""
    energy_kwh: float
    error_kwh: float
    """Half the width of the range in which the energy lies, from what is unknown about others' part in a counted sum;
    0 for a model, since CPU time is counted exactly. It does not contain what is wrong with a model of the power."""
    cpu_kwh: float
    gpu_kwh: float
    """Of all accelerators that this process sees, if it used one; else 0."""
    ram_kwh: float
    co2e_g: float
    intensity_g_per_kwh: float
    country: str
    method: Literal["measured", "model"]
    """Whether the energy was counted by the processor or follows from a model of its power."""
    scope: Literal["process", "machine"]
    """What was counted: this process and its children, or everything that ran on the machine."""
    foreign_cpus: float
    """Mean number of CPUs that other processes kept busy meanwhile."""
    tracker: str
    """Name and version of the tracker."""

    @property
    def energy(self) -> Interval:
        """Return the energy in kWh with its range."""
        return interval_of_energy(self.energy_kwh, self.error_kwh)


class EnergyMeter:
    """Context manager that measures its block; `reading` is available afterwards.

    Args:
        country: ISO 3166-1 alpha-3 code.
        alone: whether this process and its children do all the work. If several processes of this machine work
            together, one of them measures the machine.

    Raises:
        InputError: the country is not in CodeCarbon's table (it would silently use the world's average).
    """

    def __init__(self, country: str, *, alone: bool = True) -> None:
        check_country(country)
        self._country, self._alone = country, alone
        self._reading: EnergyReading | None = None

    @property
    def reading(self) -> EnergyReading:
        """Return the reading of the finished block."""
        assert self._reading is not None, "the block has not ended"
        return self._reading

    def __enter__(self) -> "EnergyMeter":
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.core.config import get_hierarchical_config

        try:
            get_hierarchical_config()  # the tracker would swallow the error and fail after the work
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f".codecarbon.config cannot be read: {reason}; correct or remove the file") from None

        logging.getLogger("codecarbon").disabled = True
        # Everything that changes the energy is given here: CodeCarbon also reads the environment and files at home.
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code=self._country,
            measure_power_secs=_SECONDS_BETWEEN_SAMPLES,
            tracking_mode="process" if self._alone else "machine",
            pue=1.0,
            wue=0.0,
            force_cpu_power=None,
            force_ram_power=None,
            force_carbon_intensity_g_co2e_kwh=None,
            force_mode_cpu_load=False,
            rapl_include_dram=False,
            rapl_prefer_psys=False,
            region=None,
            cloud_provider=None,
            cloud_region=None,
            country_2letter_iso_code=None,
            electricitymaps_api_token=None,
            gpu_ids=None,
            output_dir=tempfile.gettempdir(),
            output_handlers=[],
            api_call_interval=1,
            output_methods=[],
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker._electricitymaps_api_token = None  # it has a second, older name without an argument
        self._tracker.start()
        self._start, self._before = time.monotonic(), read_counters()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds, strain = time.monotonic() - self._start, strain_between(self._before, read_counters())
        # A sample that is being taken now would report to a tracker that has stopped, and fail with a traceback.
        self._tracker._api_call_interval = -1
        co2e_kg = self._tracker.stop()
        if kind is not None:
            return
        if co2e_kg is None:  # CodeCarbon swallows the errors of its own start
            raise RuntimeError("CodeCarbon returned no figure; run `codecarbon monitor --offline` to see why")
        self._reading = self._read(seconds, float(co2e_kg), strain)

    def _processor_watts(self) -> float:
        """Return the power of the machine's processors at full load, as CodeCarbon assumes it."""
        from codecarbon.external.hardware import CPU

        return sum(float(part._tdp) for part in self._tracker._hardware if isinstance(part, CPU))

    def _read(self, seconds: float, co2e_kg: float, strain: Strain) -> EnergyReading:
        data = self._tracker.final_emissions_data
        modes = {getattr(part, "_mode", None) for part in self._tracker._hardware}
        is_measured = bool(modes.intersection(_COUNTED_BY_HARDWARE))
        cpu, gpu, ram = (float(value) for value in (data.cpu_energy, data.gpu_energy, data.ram_energy))
        if self._alone and not _uses_accelerator():  # CodeCarbon counts all of them, idle ones and others' too
            gpu = 0.0
        share = min(1.0, strain.own / strain.cpus)
        if self._alone:  # CodeCarbon's model of a process's memory has steps of whole memory modules
            ram = _memory_watts() * seconds / JOULES_PER_KWH * share
        if self._alone and not is_measured:  # it samples the load, which is off by up to 90 % over some seconds
            cpu = self._processor_watts() * seconds / JOULES_PER_KWH * share
        intensity = co2e_kg * 1000 / float(data.energy_consumed) if data.energy_consumed else 0.0
        error = 0.0
        if is_measured and self._alone:
            least = cpu * strain.own / (strain.own + strain.foreign) if strain.own else 0.0
            cpu, error = (least + cpu) / 2, (cpu - least) / 2
        energy = cpu + gpu + ram
        return EnergyReading(
            seconds=seconds,
            cpu_seconds=strain.own * seconds,
            energy_kwh=energy,
            error_kwh=error,
            cpu_kwh=cpu,
            gpu_kwh=gpu,
            ram_kwh=ram,
            co2e_g=intensity * energy,
            intensity_g_per_kwh=intensity,
            country=self._country,
            method="measured" if is_measured else "model",
            scope="process" if self._alone else "machine",
            foreign_cpus=strain.foreign,
            tracker=f"codecarbon {data.codecarbon_version}",
        )


def detect_processor() -> Thread:
    """Start a thread in which CodeCarbon finds the processor's model, and keeps it for this process and its forks.

    It takes a second of waiting for another process. Join the thread before an `EnergyMeter` begins.
    """
    from codecarbon.core.util import detect_cpu_model

    thread = Thread(target=detect_cpu_model, daemon=True)
    thread.start()
    return thread


def sum_of(readings: Sequence[EnergyReading]) -> EnergyReading:
    """Combine the readings of machines that worked at the same time: sum of energies, longest time."""
    first = readings[0]
    fields = ("cpu_seconds", "energy_kwh", "cpu_kwh", "gpu_kwh", "ram_kwh", "co2e_g", "foreign_cpus", "error_kwh")
    sums: dict[str, float | str] = {name: sum(getattr(reading, name) for reading in readings) for name in fields}
    is_measured = all(reading.method == "measured" for reading in readings)
    sums |= {
        "seconds": max(reading.seconds for reading in readings),
        "method": "measured" if is_measured else "model",
    }
    return first.model_copy(update=sums)


def interval_of_energy(kwh: float, error: float) -> Interval:
    """Return an energy with its interval, whose half width is `error`."""
    return Interval(value=kwh, low=max(0.0, kwh - error), high=kwh + error)


def _uses_accelerator() -> bool:
    """Return whether this process has opened an accelerator; without torch it cannot have."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _memory_watts() -> float:
    """Return the power of the machine's memory, by CodeCarbon's model."""
    from codecarbon.external.ram import RAM

    return float(RAM(tracking_mode="machine").total_power().W)


def check_country(country: str) -> None:
    """Raise `InputError` for a country whose electricity mix is not known."""
    from codecarbon.input import DataSource

    mix = DataSource().get_global_energy_mix_data()
    if country not in mix:
        near = ", ".join(sorted(code for code in mix if code[:1] == country[:1])[:12])
        raise InputError(f"emissions.country {country!r}: its electricity mix is not known; some that are: {near}")
