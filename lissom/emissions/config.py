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
