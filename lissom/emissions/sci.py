"""Software Carbon Intensity: SCI = (E I + M) per R, in g CO2e per functional unit R, here one inference.

ISO/IEC 21031:2024; the sections named here are those of the specification's version 1.1 by the Green Software
Foundation (github.com/Green-Software-Foundation/sci). E is energy in kWh, I the carbon intensity of the grid in g/kWh,
and M the share of the hardware's embodied carbon. The components of the software's boundary are added ("Functional
unit conversion"): the inference itself, and the trainings, spread over the inferences that the model is to serve.
"""

from lissom.emissions.config import EmissionsParams
from lissom.interval import Interval
from lissom.section import Section

STANDARD = "ISO/IEC 21031:2024, Software Carbon Intensity (SCI) specification 1.1"
FUNCTIONAL_UNIT = "one inference: one text, batch size 1"
BOUNDARY = (
    "included: the machine (processor, accelerator, memory) while it answers, requests following each other without "
    "pause; its embodied carbon; the trainings that made the model, spread over the inferences of its service",
    "left out: idle time between requests, network, storage, the clients, and the measuring itself",
)
_INFERENCE_CORES = 1
"""The latency and energy of an inference are those of one pinned thread."""
_SECONDS_PER_DAY = 86_400
_DAYS_PER_YEAR = 365  # as the specification's example counts


class Demand(Section):
    """Energy and time that a model takes of the machine."""

    inference_kwh: Interval
    """Of one inference."""
    inference_seconds: float
    training_kwh: float
    """Of all trainings that made the model."""
    training_seconds: float


class Component(Section):
    """One component of the boundary, per functional unit."""

    name: str
    units: float
    """Functional units that its energy and time are divided by, the conversion factor."""
    energy_kwh: float
    """E, with the power usage effectiveness."""
    operational_g: float
    """E I."""
    embodied_g: float
    """M."""


class Score(Section):
    """SCI of one model."""

    sci_g: Interval
    """g CO2e per inference; the interval is that of the measured energy."""
    components: tuple[Component, ...]


class SciStatement(Section):
    """Scores of teacher and artefact, with all that the specification asks to disclose ("Procedure", step 5)."""

    standard: str = STANDARD
    functional_unit: str = FUNCTIONAL_UNIT
    boundary: tuple[str, ...] = BOUNDARY
    quantification: str
    energy_methods: tuple[str, str]
    """`measured` or `model`, of the energy of an inference and of the trainings."""
    intensity_g_per_kwh: float
    """I, location-based: the yearly average of the country's grid."""
    country: str
    embodied_kg: float
    """TE."""
    lifetime_years: float
    """EL."""
    reserved_cores: int
    """RR of an inference, which runs on one thread."""
    training_cores: int
    """RR of the trainings."""
    machine_cores: int
    """ToR."""
    power_usage_effectiveness: float
    service_inferences: float
    """Inferences that the trainings are spread over."""
    teacher: Score
    artifact: Score


def operational_g(kwh: float, intensity_g_per_kwh: float, power_usage_effectiveness: float = 1.0) -> float:
    """Return O = E I in g CO2e ("Operational emissions"), for the energy that the machine itself consumes."""
    return kwh * power_usage_effectiveness * intensity_g_per_kwh


def embodied_g(seconds: float, embodied_kg: float, lifetime_years: float, resource_share: float) -> float:
    """Return M = TE (TiR / EL) (RR / ToR) in g CO2e ("Embodied emissions").

    Args:
        seconds: TiR, the time for which the machine is reserved.
        embodied_kg: TE, the machine's total embodied carbon.
        lifetime_years: EL, its expected lifespan.
        resource_share: RR / ToR, the reserved share of its resources.
    """
    return embodied_kg * 1000 * seconds / (lifetime_years * _DAYS_PER_YEAR * _SECONDS_PER_DAY) * resource_share


def statement(
    teacher: Demand,
    artifact: Demand,
    params: EmissionsParams,
    *,
    intensity_g_per_kwh: float,
    country: str,
    training_cores: int,
    methods: tuple[str, str],
) -> SciStatement:
    """Return the SCI of teacher and artefact, by the same assumptions ("Comparing an SCI score to a baseline").

    Args:
        teacher: what the teacher takes of the machine.
        artifact: the same of the compressed model; its trainings include the teacher's.
        params: embodied carbon of the machine, service and so on.
        intensity_g_per_kwh: carbon intensity of the grid.
        country: ISO 3166-1 alpha-3 code of the grid's country.
        training_cores: cores that the trainings had.
        methods: `measured` or `model`, of the energy of an inference and of the trainings.
    """
    trained_on, service = min(training_cores, params.machine_cores), params.requests_per_day * params.service_days

    def component(name: str, kwh: float, seconds: float, units: float, cores: int) -> Component:
        share = cores / params.machine_cores
        return Component(
            name=name,
            units=units,
            energy_kwh=kwh * params.power_usage_effectiveness / units,
            operational_g=operational_g(kwh, intensity_g_per_kwh, params.power_usage_effectiveness) / units,
            embodied_g=embodied_g(seconds, params.embodied_kg, params.lifetime_years, share) / units,
        )

    def score(demand: Demand) -> Score:
        training = component("training", demand.training_kwh, demand.training_seconds, service, trained_on)

        def components(kwh: float) -> tuple[Component, ...]:
            return component("inference", kwh, demand.inference_seconds, 1.0, _INFERENCE_CORES), training

        energy = demand.inference_kwh
        value, low, high = (
            sum(part.operational_g + part.embodied_g for part in components(kwh))
            for kwh in (energy.value, energy.low, energy.high)
        )
        return Score(sci_g=Interval(value=value, low=low, high=high), components=components(energy.value))

    return SciStatement(
        quantification=f"calculation: energy of the process in a benchmark (of an inference: {methods[0]}; of the "
        f"trainings: {methods[1]}), by CodeCarbon; embodied carbon by a model, from a machine's published footprint",
        energy_methods=methods,
        intensity_g_per_kwh=intensity_g_per_kwh,
        country=country,
        reserved_cores=_INFERENCE_CORES,
        training_cores=trained_on,
        service_inferences=service,
        **params.model_dump(include={"embodied_kg", "lifetime_years", "machine_cores", "power_usage_effectiveness"}),
        teacher=score(teacher),
        artifact=score(artifact),
    )


def in_words(sci: SciStatement) -> str:
    """Return the scores as one line, in micrograms per inference (the number of mg per thousand)."""

    def shown(score: Score) -> str:
        operational = sum(part.operational_g for part in score.components)
        embodied = sum(part.embodied_g for part in score.components)
        total = score.sci_g
        return (
            f"{total.value * 1e6:.3g} ({total.low * 1e6:.3g} to {total.high * 1e6:.3g}; operational "
            f"{operational * 1e6:.3g}, embodied {embodied * 1e6:.3g})"
        )

    of_inference, of_trainings = sci.energy_methods
    return (
        f"SCI (ISO/IEC 21031): {shown(sci.artifact)} µg CO2e per inference, teacher {shown(sci.teacher)}; energy of an "
        f"inference: {of_inference}, of the trainings: {of_trainings}; embodied carbon is an assumption: "
        f"{sci.embodied_kg:g} kg over {sci.lifetime_years:g} years, {sci.reserved_cores} of {sci.machine_cores} cores"
    )
