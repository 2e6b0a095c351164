"""The work of the stage."""

import torch

from components.stage import Outcome, Stage
from lissom.emissions.inference import measure_inference_energy
from lissom.emissions.payback import interval, payback
from lissom.evaluate.variant import eager_runner, timed_batches
from lissom.export.exported import open_exported
from lissom.report.ledger import energy_spent, read_evaluations


def measure_emissions(stage: Stage) -> Outcome:
    """Run teacher and artefact in turn on single test texts, then set the saving against what the stages have spent."""
    params, teacher, model = stage.params.emissions, stage.load("teacher"), stage.load("model")
    batches = timed_batches(stage.encode(teacher, "test"), 1, teacher.pad_id)
    final_batches = timed_batches(stage.encode(model, "test"), 1, model.pad_id)
    exported = open_exported(stage.inputs["export"])
    runners = {
        "teacher": eager_runner(teacher, batches),
        "artifact": exported.runner(final_batches, torch.get_num_threads()),
    }
    energy = measure_inference_energy(runners, len(batches), params.repeats, params.seconds, params.country)
    saved = interval([old - new for old, new in zip(energy["teacher"].kwh, energy["artifact"].kwh, strict=True)])
    spent = energy_spent(model.manifest, read_evaluations(stage.inputs["evaluations"], stage.params.variants))
    return Outcome(
        metrics={
            "inference": {
                "teacher": interval(energy["teacher"].kwh).model_dump(),
                "artifact": interval(energy["artifact"].kwh).model_dump(),
                "saved": saved.model_dump(),
            },
            "inferences": {name: reading.inferences for name, reading in energy.items()},
            **spent.model_dump(),
            "payback": payback(spent.compressing_kwh, saved, params.requests_per_day).model_dump(),
        }
    )
