"""Energy and CO2e of a block of work, measured by CodeCarbon, offline.

CodeCarbon measures the whole machine. If the processor does not count its energy (RAPL), it is estimated from the load
and a table of thermal design powers; `EnergyReading.method` says which.
"""

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from lissom.errors import InputError
from lissom.section import Section

_SECONDS_BETWEEN_SAMPLES = 1
_COUNTED_BY_HARDWARE = ("intel_rapl", "intel_power_gadget", "windows_emi")


class EnergyReading(Section):
    """Time, energy and emissions of a block of work."""

    seconds: float
    energy_kwh: float
    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    co2e_g: float
    intensity_g_per_kwh: float
    country: str
    method: Literal["measured", "estimated"]
    """Whether the energy was counted by the processor or estimated by a model of its power."""
    tracker: str
    """Name and version of the tracker."""


class EnergyMeter:
    """Context manager that measures its block; `reading` is available afterwards.

    Args:
        country: ISO 3166-1 alpha-3 code.

    Raises:
        InputError: the country is not in CodeCarbon's table (it would silently use the world's average).
    """

    def __init__(self, country: str) -> None:
        check_country(country)
        self._country = country
        self._reading: EnergyReading | None = None

    @property
    def reading(self) -> EnergyReading:
        """Return the reading of the finished block."""
        assert self._reading is not None, "the block has not ended"
        return self._reading

    def __enter__(self) -> "EnergyMeter":
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").disabled = True
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code=self._country,
            measure_power_secs=_SECONDS_BETWEEN_SAMPLES,
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="critical",
        )
        self._tracker.start()
        self._start = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._start
        co2e_kg = self._tracker.stop()
        if kind is not None:
            return
        if co2e_kg is None:  # CodeCarbon swallows the errors of its own start
            raise RuntimeError("CodeCarbon returned no figure; run `codecarbon monitor --offline` to see why")
        data = self._tracker.final_emissions_data
        energy = float(data.energy_consumed)
        modes = {getattr(part, "_mode", None) for part in self._tracker._hardware}
        self._reading = EnergyReading(
            seconds=seconds,
            energy_kwh=energy,
            cpu_kwh=float(data.cpu_energy),
            gpu_kwh=float(data.gpu_energy),
            ram_kwh=float(data.ram_energy),
            co2e_g=float(co2e_kg) * 1000,
            intensity_g_per_kwh=float(co2e_kg) * 1000 / energy if energy else 0.0,
            country=self._country,
            method="measured" if modes.intersection(_COUNTED_BY_HARDWARE) else "estimated",
            tracker=f"codecarbon {data.codecarbon_version}",
        )


def sum_of(readings: Sequence[EnergyReading]) -> EnergyReading:
    """Combine the readings of machines that worked at the same time: sum of energies, longest time."""
    first = readings[0]
    fields = ("energy_kwh", "cpu_kwh", "gpu_kwh", "ram_kwh", "co2e_g")
    sums: dict[str, float | str] = {name: sum(getattr(reading, name) for reading in readings) for name in fields}
    is_measured = all(reading.method == "measured" for reading in readings)
    sums |= {
        "seconds": max(reading.seconds for reading in readings),
        "method": "measured" if is_measured else "estimated",
    }
    return first.model_copy(update=sums)


def check_country(country: str) -> None:
    """Raise `InputError` for a country whose electricity mix is not known."""
    from codecarbon.input import DataSource

    mix = DataSource().get_global_energy_mix_data()
    if country not in mix:
        near = ", ".join(sorted(code for code in mix if code[:1] == country[:1])[:12])
        raise InputError(f"emissions.country {country!r}: its electricity mix is not known; some that are: {near}")
