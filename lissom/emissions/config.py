"""Params of the energy accounting."""

from typing import Annotated

from pydantic import Field, StringConstraints

from lissom.section import Section


class EmissionsParams(Section):
    """Where the electricity comes from and how often the model is asked."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "DEU"
    """ISO 3166-1 alpha-3 code of the country whose mix of electricity is counted."""

    requests_per_day: float = Field(default=100_000, gt=0)
    """Inferences a day, to tell the payback in days."""

    repeats: int = Field(default=5, ge=3)
    """Repetitions of the inference measurement, teacher and artefact in turn; they give the interval."""

    seconds: float = Field(default=3.0, gt=0)
    """Length of one repetition."""
