"""The work of the stage."""

import torch

from lissom.artifacts import FINAL
from lissom.components.stage import Outcome, Stage
from lissom.emissions.inference import TokenEnergy, measure_inference_energy, measure_token_energy
from lissom.emissions.meter import JOULES_PER_KWH
from lissom.emissions.payback import payback
from lissom.evaluate.figures import EAGER, VARIANT, Writing
from lissom.evaluate.variant import eager_runner, timed_together
from lissom.evaluate.writing import engines, prompts_of, token_runner
from lissom.export.exported import Exported, open_exported
from lissom.interval import Interval
from lissom.models.compressed import CompressedModel
from lissom.report.ledger import energy_spent, read_evaluations

_JOULES = 1000 * JOULES_PER_KWH
"""Joules of 1,000 inferences at one kWh each."""


def measure_emissions(stage: Stage) -> Outcome:
    """Measure the energy of an inference of teacher and artefact, and compute the payback of the compression."""
    params, teacher, model = stage.params.emissions, stage.load("teacher"), stage.load("model")
    evaluations = read_evaluations(stage.inputs["evaluations"], stage.params.variants)
    sides = [(stage.encode(side, "test"), side.pad_id) for side in (teacher, model)]
    batches, final_batches = timed_together(sides, 1)
    torch.set_num_threads(1)
    exported = open_exported(stage.inputs["export"])
    runners = {
        "teacher": eager_runner(teacher, batches, exported.serving.get("beams", 1)),
        "artifact": exported.runner(final_batches, threads=1),
    }
    measured = evaluations[FINAL].headline
    expected = {"teacher": measured.runners[EAGER], "artifact": measured.runners[VARIANT]}
    energy = measure_inference_energy(
        runners, len(batches), repeats=params.repeats, seconds=params.seconds, country=params.country,
        expected=expected if measured.conditions.disturbed is None else {},
    )  # fmt: skip
    speeds = evaluations[FINAL].writing
    writing = _writing(stage, teacher, exported, speeds) if speeds else None
    spent = energy_spent(model.manifest, evaluations)
    saved = Interval(**{name: value / _JOULES for name, value in energy.saved.model_dump().items()})
    return Outcome(
        metrics={
            "inference": energy.model_dump(mode="json"),
            "spent": spent.model_dump(mode="json"),
            "payback": payback(spent.compressing, saved, params.requests_per_day).model_dump(mode="json"),
            **({} if writing is None else {"writing": writing.model_dump(mode="json")}),
        }
    )


def _writing(stage: Stage, teacher: CompressedModel, exported: Exported, speeds: Writing) -> TokenEnergy:
    """Return the energy of a token that a language model's engines write."""
    params, context = stage.params.emissions, int(exported.serving["max_length"])
    prompt = prompts_of(stage.encode(teacher, "test"), context)[0]
    runners = {name: token_runner(step, prompt) for name, step in engines(teacher, exported, context).items()}
    is_quiet = speeds.token_conditions.disturbed is None
    return measure_token_energy(
        runners, repeats=params.repeats, seconds=params.seconds, country=params.country,
        expected={name: speed.token for name, speed in speeds.engines.items()} if is_quiet else {},
    )  # fmt: skip
