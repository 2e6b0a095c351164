"""The work of the stage."""

import torch

from components.stage import Outcome, Stage
from lissom.emissions.inference import measure_inference_energy
from lissom.emissions.payback import interval, payback
from lissom.evaluate.variant import eager_runner, timed_batches
from lissom.export.exported import open_exported
from lissom.report.ledger import energy_spent, read_evaluations


def measure_emissions(stage: Stage) -> Outcome:
    """Measure the energy of an inference of teacher and artefact, and compute the payback of the compression."""
    params, teacher, model = stage.params.emissions, stage.load("teacher"), stage.load("model")
    batches = timed_batches(stage.encode(teacher, "test"), 1, teacher.pad_id)
    final_batches = timed_batches(stage.encode(model, "test"), 1, model.pad_id)
    artifact = open_exported(stage.inputs["export"])
    runners = {
        "teacher": eager_runner(teacher, batches),
        "artifact": artifact.runner(final_batches, torch.get_num_threads()),
    }
    energy = measure_inference_energy(runners, len(batches), params.repeats, params.seconds, params.country)
    savings = interval([old - new for old, new in zip(energy["teacher"].kwh, energy["artifact"].kwh, strict=True)])
    costs = energy_spent(model.manifest, read_evaluations(stage.inputs["evaluations"], stage.params.variants))
    return Outcome(
        metrics={
            "inference": {
                "teacher": interval(energy["teacher"].kwh).model_dump(),
                "artifact": interval(energy["artifact"].kwh).model_dump(),
                "saved": savings.model_dump(),
            },
            "inferences": {name: reading.inferences for name, reading in energy.items()},
            **costs.model_dump(),
            "payback": payback(costs.compressing_kwh, savings, params.requests_per_day).model_dump(),
        }
    )
