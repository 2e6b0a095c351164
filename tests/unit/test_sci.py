"""Software Carbon Intensity: by the specification's own example, by hand, and in how it must react."""

import pytest

from lissom.emissions.config import EmissionsParams
from lissom.emissions.sci import Demand, embodied_g, in_words, operational_g, statement
from lissom.interval import Interval

HOURS_PER_YEAR = 365 * 24


def demand(
    kwh: float = 2e-8, seconds: float = 0.004, training_kwh: float = 0.005, training_seconds: float = 300
) -> Demand:
    energy = Interval(value=kwh, low=kwh * 0.9, high=kwh * 1.2)
    return Demand(inference_kwh=energy, inference_seconds=seconds, training_kwh=training_kwh, training_seconds=training_seconds)  # fmt: skip


def state(artifact: Demand, intensity: float = 400.0, cores: int = 12, **params):
    return statement(
        demand(), artifact, EmissionsParams(**params), intensity_g_per_kwh=intensity, country="DEU", training_cores=cores,
        methods=("measured", "model"),
    )  # fmt: skip


def test_the_example_of_the_specification():
    """1000 kg, a lifespan of four years, reserved for one hour: around 28 g ("Embodied emissions")."""
    grams = embodied_g(3600, embodied_kg=1000, lifetime_years=4, resource_share=1)
    assert grams == pytest.approx(1_000_000 / (4 * HOURS_PER_YEAR)) and 28 <= grams < 29
    assert embodied_g(3600, 1000, 4, resource_share=0.25) == pytest.approx(grams / 4)


def test_an_inference_by_hand():
    """E = 3.6e-3 kWh with a PUE of 1.5 at 400 g/kWh, an hour on 1 of 48 cores, a training on 12 of them over 10 x 50 requests."""
    usage = demand(kwh=3.6e-3, seconds=3600, training_kwh=2.0, training_seconds=36_000)
    sci = state(usage, embodied_kg=1000, lifetime_years=4, machine_cores=48, power_usage_effectiveness=1.5, requests_per_day=10, service_days=50)  # fmt: skip
    an_hour = 1_000_000 / (4 * HOURS_PER_YEAR)
    operational, embodied = 3.6e-3 * 1.5 * 400, an_hour / 48
    training = 2.0 * 1.5 * 400 / 500 + an_hour / 4 * 10 / 500
    assert sci.artifact.sci_g.value == pytest.approx(operational + embodied + training)
    inference, trained = sci.artifact.components
    assert (inference.operational_g, inference.embodied_g) == pytest.approx((operational, embodied))
    assert trained.units == sci.service_inferences == 500
    assert trained.operational_g + trained.embodied_g == pytest.approx(training)
    # The interval is that of the energy: embodied carbon and trainings do not move with it.
    assert sci.artifact.sci_g.low == pytest.approx(operational * 0.9 + embodied + training)
    assert sci.artifact.sci_g.high == pytest.approx(operational * 1.2 + embodied + training)


def test_operational_emissions_are_energy_times_intensity():
    assert operational_g(2.0, 350.0) == 700 and operational_g(2.0, 350.0, 1.2) == pytest.approx(840)


@pytest.mark.parametrize(
    ("better", "intensity", "params"),
    [
        (demand(kwh=1e-8), 400.0, {}),
        (demand(seconds=0.002), 400.0, {}),
        (demand(training_kwh=0.001), 400.0, {}),
        (demand(), 200.0, {}),
        (demand(), 400.0, {"lifetime_years": 8}),
        (demand(), 400.0, {"embodied_kg": 300}),
        (demand(), 400.0, {"machine_cores": 96}),
        (demand(), 400.0, {"service_days": 1000}),
    ],
)
def test_it_goes_down_with_energy_time_carbon_and_hardware(better, intensity, params):
    """ "Core characteristics": the score is sensitive to energy, hardware and carbon."""
    assert state(better, intensity, **params).artifact.sci_g.value < state(demand()).artifact.sci_g.value


def test_no_more_cores_than_the_machine_has_are_reserved():
    sci = state(demand(), cores=64, machine_cores=48)
    assert sci.training_cores == 48 and sci.reserved_cores == 1


def test_teacher_and_artefact_share_the_assumptions_and_all_are_told():
    sci = state(demand())
    assert sci.teacher == sci.artifact  # the same demand
    told = sci.model_dump()
    assert {
        "embodied_kg",
        "lifetime_years",
        "machine_cores",
        "reserved_cores",
        "training_cores",
        "intensity_g_per_kwh",
        "service_inferences",
    } <= set(told)
    assert "measured" in sci.quantification and "ISO/IEC 21031" in sci.standard and len(sci.boundary) == 2
    words = in_words(sci)
    assert f"{sci.artifact.sci_g.value * 1e6:.3g}" in words and "1 of 48 cores" in words and "assumption" in words
