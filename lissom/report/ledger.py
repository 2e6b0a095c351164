"""The ledger: gains and costs of every step, shown on the report's page and in the model card.

Built from the manifest's steps, the export records and the evaluations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifacts import EMISSIONS, FINAL, METRICS, TEACHER, read_json
from lissom.emissions.inference import InferenceEnergy, TokenEnergy
from lissom.emissions.meter import interval_of_energy
from lissom.emissions.payback import Payback
from lissom.errors import InputError
from lissom.evaluate.conditions import Conditions
from lissom.evaluate.config import Baseline
from lissom.evaluate.figures import EAGER, VARIANT, Evaluation, Floor, strongest
from lissom.interval import Interval
from lissom.section import Section
from lissom.tasks.metric import Metric

if TYPE_CHECKING:
    from lissom.models.manifest import Manifest, Step


class Row(Section):
    """One step and its resulting model."""

    step: str
    method: str
    score: float
    """On the test set; a perplexity is per token of the teacher, whatever tokens the step's model reads."""
    kept: Interval | None
    """Share of the teacher's score, on the same examples."""
    milliseconds: Interval
    """Median latency of the exported file for one text on one pinned thread."""
    speedup: Interval
    """Over the eager fp32 teacher, in turn with it."""
    disturbed: str | None
    """Why the latency does not count, if other load disturbed it."""
    megabytes: float
    parameters: int
    energy_kwh: float
    co2e_g: float
    seconds: float


class Headline(Section):
    """The main results."""

    kept: Interval | None
    """Final score over the teacher's; None if the teacher's may be 0."""
    drop: Interval
    """How much worse the final score is than the teacher's."""
    speedups: dict[Baseline, Interval]
    """Over the teacher in three forms, one text on one pinned thread."""
    conditions: Conditions
    """Of the latencies."""
    times_smaller: float
    """Teacher's ONNX file over the final one."""
    payback: Payback


class Int8Row(Section):
    """One of the teacher's plain int8 files."""

    name: str
    score: float
    milliseconds: float
    """Median, in turn with the teacher's other forms."""
    speedup: float
    """Over the eager fp32 teacher."""
    megabytes: float


class EnergySpent(Section):
    """kWh of all stages, by purpose."""

    compressing: Interval
    """The four steps, the final export, and the teacher's logits."""
    teacher_kwh: float
    """Fine-tuning."""
    measuring_kwh: float
    """The other exports and all evaluations."""
    incomplete: tuple[str, ...]
    """Stages that were killed and went on later, of which the energy of the last part alone is known."""
    with_others: tuple[str, ...]
    """Stages that ran in several processes, which are counted with all that ran on the machine."""


class Ledger(Section):
    """All figures of the report."""

    task: str
    metric: Metric
    """The task's metric."""
    headline: Headline
    rows: tuple[Row, ...]
    eager_milliseconds: float
    """Median latency of the eager fp32 teacher, in turn with the final file."""
    spent: EnergySpent
    inference: InferenceEnergy
    writing: TokenEnergy | None
    """Only of language models."""
    country: str
    intensity_g_per_kwh: float
    energy_method: str
    """Of the stages: `measured` if the energy of all of them was; of an inference, `inference.power` tells it."""
    floors: tuple[Floor, ...]
    absent_floors: dict[str, str]
    """Floors that could not be made, by name, with the reason."""
    plain_int8: tuple[Int8Row, ...]
    """The faster one first."""
    teacher_still_improved: bool
    """Whether the teacher's dev score was best after its last epoch."""

    @property
    def is_measured(self) -> bool:
        """Return whether all energy was measured, that of the stages and that of an inference."""
        methods = {self.energy_method, *(power.method for power in self.inference.power.values())}
        return methods == {"measured"}

    @property
    def strongest_floor(self) -> Floor | None:
        """Return the floor with the best dev score, None if there is none."""
        return strongest(self.floors, self.metric)


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
    costs = {name: _energy(step.cost) for name, step in steps.items()}
    exports = {variant: _energy(evaluation.exported.cost) for variant, evaluation in evaluations.items()}
    logits = (costs[TEACHER][0] * share, costs[TEACHER][1] * share)
    parts = [logits, *(cost for name, cost in costs.items() if name != TEACHER), exports[FINAL]]
    return EnergySpent(
        # What others' work costs is unknown for all stages in the same way, so that errors do not cancel.
        compressing=interval_of_energy(sum(kwh for kwh, _ in parts), sum(error for _, error in parts)),
        teacher_kwh=costs[TEACHER][0] * (1 - share),
        measuring_kwh=sum(kwh for name, (kwh, _) in exports.items() if name != FINAL)
        + sum(evaluation.kwh for evaluation in evaluations.values()),
        incomplete=tuple(name for name, step in steps.items() if step.cost.get("resumed")),
        with_others=tuple(name for name, step in steps.items() if step.cost["scope"] == "machine"),
    )


def build_ledger(manifest: "Manifest", evaluations: Mapping[str, Evaluation], energy: Mapping[str, Any]) -> Ledger:
    """Build the ledger from the final model's manifest, all evaluations and the metrics of the stage `emissions`."""
    steps = {step.stage: step for step in manifest.steps}
    teacher, final = evaluations[TEACHER], evaluations[FINAL]
    cost, setting = steps[TEACHER].cost, final.headline
    return Ledger(
        task=manifest.task.name,
        metric=teacher.metric,
        headline=Headline(
            kept=final.paired.kept,
            drop=final.paired.drop,
            speedups=setting.speedups,
            conditions=setting.conditions,
            times_smaller=teacher.megabytes / final.megabytes,
            payback=Payback.model_validate(energy["payback"]),
        ),
        rows=tuple(_row(steps[variant], evaluation, teacher) for variant, evaluation in evaluations.items()),
        eager_milliseconds=setting.runners[EAGER].p50,
        spent=EnergySpent.model_validate(energy["spent"]),
        inference=InferenceEnergy.model_validate(energy["inference"]),
        writing=TokenEnergy.model_validate(energy["writing"]) if "writing" in energy else None,
        country=str(cost["country"]),
        intensity_g_per_kwh=float(cost["intensity_g_per_kwh"] or 0),
        energy_method="measured" if all(step.cost["method"] == "measured" for step in manifest.steps) else "model",
        floors=teacher.floors,
        absent_floors=teacher.absent_floors,
        plain_int8=_int8_rows(teacher, final),
        teacher_still_improved=bool(steps[TEACHER].metrics.get("still_improved", False)),
    )


def _int8_rows(teacher: Evaluation, final: Evaluation) -> tuple[Int8Row, ...]:
    latencies = final.headline.runners
    rows = [
        Int8Row(
            name=baseline.name,
            score=baseline.quality.score,
            milliseconds=latencies[baseline.name].p50,
            speedup=latencies[EAGER].p50 / latencies[baseline.name].p50,
            megabytes=baseline.megabytes,
        )
        for baseline in teacher.plain_int8
    ]
    return tuple(sorted(rows, key=lambda row: row.milliseconds))


def _row(step: "Step", evaluation: Evaluation, teacher: Evaluation) -> Row:
    setting, score = evaluation.headline, evaluation.quality.score
    if evaluation.quality.agreement is None:  # other tokens than the teacher's: only the paired scores are comparable
        score = teacher.metric.worst_allowed(teacher.quality.score, evaluation.paired.drop.value)
    return Row(
        step=step.stage,
        method=step.method,
        score=score,
        kept=evaluation.paired.kept,
        milliseconds=setting.runners[VARIANT].median,
        speedup=setting.speedups["eager"],
        disturbed=setting.conditions.disturbed,
        megabytes=evaluation.megabytes,
        parameters=evaluation.anatomy.total,
        **{name: float(step.cost[name] or 0) for name in ("energy_kwh", "co2e_g", "seconds")},
    )


def _energy(cost: Mapping[str, Any]) -> tuple[float, float]:
    """Return the kWh of a stage's cost and half the width of their range."""
    return float(cost["energy_kwh"] or 0), float(cost["error_kwh"] or 0)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage that writes it, or `lissom compress`") from None
