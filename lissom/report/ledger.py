"""The ledger: gains and costs of every step, shown on the report's page and in the model card.

Built from the manifest's steps, the export records and the evaluations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifacts import EMISSIONS, FINAL, METRICS, TEACHER, read_json
from lissom.emissions.payback import Interval, Payback
from lissom.errors import InputError
from lissom.evaluate.figures import TEACHER_EAGER, VARIANT, Evaluation, Floor, PlainInt8, strongest
from lissom.section import Section
from lissom.tasks.metric import Metric

if TYPE_CHECKING:
    from lissom.models.manifest import Manifest, Step


class Row(Section):
    """One step and its resulting model."""

    step: str
    method: str
    score: float
    """On the test set."""
    milliseconds: float
    """Median latency of the exported file at batch 1, all threads."""
    speedup: float
    """Over the eager fp32 teacher, measured in turn with it."""
    megabytes: float
    parameters: int
    energy_kwh: float
    co2e_g: float
    seconds: float


class Headline(Section):
    """The main results."""

    score_kept: float
    """Final score over the teacher's."""
    speedup: float
    times_smaller: float
    """Teacher's ONNX file over the final one."""
    payback: Payback


class EnergyOfInference(Section):
    """Measured energy of single requests, kWh."""

    teacher: Interval
    artifact: Interval
    saved: Interval


class Ledger(Section):
    """All figures of the report."""

    task: str
    metric: Metric
    """The task's metric."""
    headline: Headline
    rows: tuple[Row, ...]
    compressing_kwh: float
    teacher_kwh: float
    measuring_kwh: float
    inference: EnergyOfInference
    country: str
    intensity_g_per_kwh: float
    energy_method: str
    floors: tuple[Floor, ...]
    absent_floors: dict[str, str]
    """Floors that could not be made, by name, with the reason."""
    plain_int8: PlainInt8

    @property
    def strongest_floor(self) -> Floor | None:
        """Return the floor with the best dev score, None if there is none."""
        return strongest(self.floors, self.metric)


class EnergySpent(Section):
    """kWh of all stages, by purpose."""

    compressing_kwh: float
    """The four steps, the final export, and the teacher's logits."""
    teacher_kwh: float
    """Fine-tuning."""
    measuring_kwh: float
    """The other exports and all evaluations."""


def read_evaluations(folder: Path, variants: Sequence[str]) -> dict[str, Evaluation]:
    """Return the evaluation of every variant, from a folder with one subfolder of metrics per variant.

    Raises:
        InputError: a variant has not been evaluated.
    """
    evaluations = {}
    for variant in variants:
        cost = _read(folder / variant / EMISSIONS)["energy_kwh"]
        evaluations[variant] = Evaluation.model_validate(_read(folder / variant / METRICS) | {"kwh": cost})
    return evaluations


def energy_spent(manifest: "Manifest", evaluations: Mapping[str, Evaluation]) -> EnergySpent:
    """Return the energy of all stages, from the costs in the manifest, the export records and the evaluations.

    The teacher stage's energy is divided in proportion to time; the share of the logits counts as compressing.
    """
    steps = {step.stage: step for step in manifest.steps}
    teacher = steps[TEACHER]
    share = min(1.0, teacher.metrics["logits_seconds"] / float(teacher.cost["seconds"] or 1))
    costs = {name: float(step.cost["energy_kwh"] or 0) for name, step in steps.items()}
    exports = {variant: float(evaluation.exported.cost["energy_kwh"]) for variant, evaluation in evaluations.items()}
    return EnergySpent(
        compressing_kwh=costs[TEACHER] * share + sum(costs.values()) - costs[TEACHER] + exports[FINAL],
        teacher_kwh=costs[TEACHER] * (1 - share),
        measuring_kwh=sum(exports.values())
        - exports[FINAL]
        + sum(evaluation.kwh for evaluation in evaluations.values()),
    )


def build_ledger(manifest: "Manifest", evaluations: Mapping[str, Evaluation], energy: Mapping[str, Any]) -> Ledger:
    """Build the ledger from the final model's manifest, all evaluations and the metrics of the stage `emissions`."""
    steps = {step.stage: step for step in manifest.steps}
    teacher, final = evaluations[TEACHER], evaluations[FINAL]
    assert teacher.plain_int8 is not None, "measured beside the teacher"
    cost, metric = steps[TEACHER].cost, teacher.metric
    return Ledger(
        task=manifest.task.name,
        metric=metric,
        headline=Headline(
            score_kept=metric.kept(teacher.quality.score, final.quality.score),
            speedup=final.headline.speedup_eager,
            times_smaller=teacher.megabytes / final.megabytes,
            payback=Payback.model_validate(energy["payback"]),
        ),
        rows=tuple(_row(steps[variant], evaluation) for variant, evaluation in evaluations.items()),
        **{name: energy[name] for name in EnergySpent.model_fields},
        inference=EnergyOfInference.model_validate(energy["inference"]),
        country=str(cost["country"]),
        intensity_g_per_kwh=float(cost["intensity_g_per_kwh"] or 0),
        energy_method=str(cost["method"]),
        floors=teacher.floors,
        absent_floors=teacher.absent_floors,
        plain_int8=teacher.plain_int8,
    )


def eager_milliseconds(evaluation: Evaluation) -> float:
    """Return the median latency of the eager fp32 teacher, measured in turn with a variant."""
    return evaluation.headline.runners[TEACHER_EAGER].p50


def _row(step: "Step", evaluation: Evaluation) -> Row:
    return Row(
        step=step.stage,
        method=step.method,
        score=evaluation.quality.score,
        milliseconds=evaluation.headline.runners[VARIANT].p50,
        speedup=evaluation.headline.speedup_eager,
        megabytes=evaluation.megabytes,
        parameters=evaluation.anatomy.total,
        **{name: float(step.cost[name] or 0) for name in ("energy_kwh", "co2e_g", "seconds")},
    )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage that writes it, or `dvc repro`") from None
