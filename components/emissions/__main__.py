"""Measure the energy of inference, teacher and artefact in turn, and tell when compressing has paid for itself."""

import torch

from components.stage import Outcome, Stage, run_stage
from lissom.artifacts import VARIANTS
from lissom.emissions.inference import measure_inference_energy
from lissom.emissions.payback import interval, payback
from lissom.evaluate.variant import eager_runner, onnx_runner, timed_batches
from lissom.report.ledger import compressing_energy, read_evaluations


def work(stage: Stage) -> Outcome:
    """Run both on single test texts, then set the saving against what the stages have spent."""
    params, teacher = stage.params.emissions, stage.load("teacher")
    model = stage.load("model")
    threads = torch.get_num_threads()
    batches = timed_batches(stage.encode(teacher, "test"), 1, teacher.pad_id)
    final_batches = timed_batches(stage.encode(model, "test"), 1, model.pad_id)
    exits = read_evaluations(stage.inputs["metrics"])[VARIANTS[-1]].exits
    speed = None if exits is None else exits.chosen
    runners = {
        "teacher": eager_runner(teacher, batches),
        "artifact": onnx_runner(stage.inputs["export"], threads, final_batches, speed=speed),
    }
    energy = measure_inference_energy(runners, len(batches), params.repeats, params.seconds, params.country)
    saved = interval([old - new for old, new in zip(energy["teacher"].kwh, energy["artifact"].kwh, strict=True)])
    compressing, fine_tuning, measuring = compressing_energy(stage.inputs["metrics"])
    return Outcome(
        metrics={
            "inference": {
                "teacher": interval(energy["teacher"].kwh).model_dump(),
                "artifact": interval(energy["artifact"].kwh).model_dump(),
                "saved": saved.model_dump(),
            },
            "inferences": {name: reading.inferences for name, reading in energy.items()},
            "compressing_kwh": compressing,
            "teacher_kwh": fine_tuning,
            "measuring_kwh": measuring,
            "payback": payback(compressing, saved, params.requests_per_day).model_dump(),
        }
    )


if __name__ == "__main__":
    run_stage("emissions", work, inputs=("data", "teacher", "model", "export", "metrics"))
