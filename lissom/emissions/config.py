"""Params of the energy accounting."""

from typing import Annotated

from pydantic import Field, StringConstraints

from lissom.section import Section


class EmissionsParams(Section):
    """Settings of the energy measurements and of the payback."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "DEU"
    """ISO 3166-1 alpha-3 code of the country whose electricity mix is used."""

    requests_per_day: float = Field(default=100_000, gt=0)
    """Inferences per day, to convert the payback to days."""

    repeats: int = Field(default=5, ge=3)
    """Repetitions of the inference measurement, teacher and artefact in turn, for the confidence interval."""

    seconds: float = Field(default=3.0, gt=0)
    """Length of one repetition."""

    power_usage_effectiveness: float = Field(default=1.0, ge=1)
    """Energy of the data centre over that of its machines (PUE), for the SCI; 1 outside of data centres."""

    embodied_kg: float = Field(default=1313, ge=0)
    """Embodied carbon of the machine, kg CO2e, for the SCI. Default: a rack server with two processors, the 15.2 % of
    manufacture in 8,640 kg (Dell, PowerEdge R740 carbon footprint, January 2019, as listed in Boavizta's
    environmental-footprint-data). Manufacturers' figures have large margins: name your own machine's."""

    lifetime_years: float = Field(default=4, gt=0)
    """Years in which that machine is used (the same document's, and the example's in the SCI specification)."""

    machine_cores: int = Field(default=48, ge=1)
    """Cores of that machine, of which an inference reserves those it is measured on. Default: two processors with 24
    cores, as in Boavizta's archetype dellR740 (boaviztapi)."""

    service_days: float = Field(default=365, gt=0)
    """Days for which the model is expected to serve; the SCI spreads the trainings over their requests."""
