"""The ledger's figures in the forms that others read: SCI and BoAmps."""

import uuid
from pathlib import PurePath
from typing import Any

from lissom.data.prepare import DataCard
from lissom.emissions import boamps
from lissom.emissions.config import EmissionsParams
from lissom.emissions.meter import JOULES_PER_KWH
from lissom.emissions.sci import Demand, SciStatement, statement
from lissom.evaluate.figures import VARIANT, Evaluation
from lissom.interval import Interval
from lissom.models.manifest import Manifest, Step
from lissom.report.ledger import Ledger

_PASSED_ON = "none"
"""Method of a step that leaves the model as it is."""


def sci_statement(ledger: Ledger, final: Evaluation, manifest: Manifest, params: EmissionsParams) -> SciStatement:
    """Return the SCI of the eager teacher and of the artefact.

    Args:
        ledger: the figures.
        final: evaluation of the artefact.
        manifest: manifest of the final model; its first step is the teacher's training.
        params: the assumptions.
    """
    energy = ledger.inference
    teacher, artifact = (
        Demand(
            inference_kwh=_kwh_of_one(joules),
            inference_seconds=milliseconds / 1000,
            training_kwh=sum(_number(step, "energy_kwh") for step in steps),
            training_seconds=sum(_number(step, "seconds") for step in steps),
        )
        for joules, milliseconds, steps in (
            (energy.teacher, ledger.eager_milliseconds, manifest.steps[:1]),
            (energy.artifact, final.headline.runners[VARIANT].p50, manifest.steps),
        )
    )
    return statement(
        teacher,
        artifact,
        params,
        intensity_g_per_kwh=ledger.intensity_g_per_kwh,
        country=ledger.country,
        training_cores=final.machine["cores"],
        methods=(ledger.inference.power["artifact"].method, ledger.energy_method),
    )


def boamps_training(ledger: Ledger, final: Evaluation, manifest: Manifest, data: DataCard) -> dict[str, Any]:
    """Return the BoAmps report of all trainings, with one measure for each step."""
    version = final.versions["torch"]
    methods = [step for step in manifest.steps if step.method != _PASSED_ON]
    task = boamps.task(
        "training",
        _family(data),
        [boamps.algorithm(step.method, base_name(manifest.base), "torch", version) for step in methods],
        boamps.dataset(data.source, data.rows["train"] + data.rows["transfer"]),
        description=f"fine-tuning and compression of a Transformer: {', '.join(step.stage for step in methods)}; "
        "one measure for each of the model's steps",
        accuracy=_accuracy(ledger),
    )
    return _report("training", task, [boamps.measure(step.cost) for step in manifest.steps], ledger, final, manifest)


def boamps_inference(ledger: Ledger, final: Evaluation, manifest: Manifest, data: DataCard) -> dict[str, Any]:
    """Return the BoAmps report of one inference of the artefact."""
    model = boamps.algorithm(
        "+".join(step.method for step in manifest.steps if step.method != _PASSED_ON),
        base_name(manifest.base),
        "onnxruntime",
        final.versions["onnxruntime"],
        quantization="int8" if final.exported.integer_kernels else "fp32",
        parameters=final.anatomy.total,
    )
    task = boamps.task(
        "inference",
        _family(data),
        [model],
        boamps.dataset(data.source, 1),
        description="one text at a time, as fast as the machine answers; mean energy and median time of one inference",
        requests=1,
        accuracy=_accuracy(ledger),
    )
    cost = {
        "tracker": manifest.steps[-1].cost["tracker"],
        "method": ledger.inference.power["artifact"].method,
        "energy_kwh": _kwh_of_one(ledger.inference.artifact).value,
        "seconds": final.headline.runners[VARIANT].p50 / 1000,
    }
    return _report("inference", task, [boamps.measure(cost)], ledger, final, manifest)


def _report(
    kind: str,
    task: dict[str, Any],
    measures: list[dict[str, Any]],
    ledger: Ledger,
    final: Evaluation,
    manifest: Manifest,
) -> dict[str, Any]:
    return boamps.report(
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"lissom:{manifest.weights_sha256}:{kind}")),
        task,
        measures,
        final.machine,
        final.versions,
        country=ledger.country,
        intensity_g_per_kwh=ledger.intensity_g_per_kwh,
    )


def base_name(source: str) -> str:
    """Return the name of a base model without the place where it lies on this machine: of a hub model its id."""
    kind, _, place = source.partition(":")
    match kind:
        case "hub":
            return place.partition("@")[0]
        case "dir":
            return PurePath(place).name
        case _:
            return place.partition("/")[0]


def _family(data: DataCard) -> str:
    return f"text{data.task.capitalize()}"


def _accuracy(ledger: Ledger) -> float | None:
    return ledger.rows[-1].score if ledger.metric.name == "accuracy" else None


def _kwh_of_one(joules: Interval) -> Interval:
    """Convert the joules of 1,000 inferences to the kWh of one."""
    return Interval(**{name: value / (1000 * JOULES_PER_KWH) for name, value in joules.model_dump().items()})


def _number(step: Step, name: str) -> float:
    return float(step.cost[name] or 0)
