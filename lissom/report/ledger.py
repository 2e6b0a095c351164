"""The ledger: what every step gained and cost. Read from the stages' metrics; the page and the model card show it."""

from pathlib import Path
from typing import Any

from lissom.artifacts import EMISSIONS, METRICS, VARIANTS, read_json
from lissom.emissions.payback import Interval, Payback
from lissom.errors import InputError
from lissom.evaluate.figures import TEACHER_EAGER, VARIANT, Evaluation, PlainInt8
from lissom.section import Section

STEPS = VARIANTS[1:]
"""The stages that compress."""


class Row(Section):
    """One step and the model that it left behind."""

    step: str
    method: str
    score: float
    """On the test set."""
    milliseconds: float
    """Median latency of the exported file at batch 1, all threads."""
    speedup: float
    """Over the eager fp32 teacher, timed in turn with it."""
    megabytes: float
    parameters: int
    energy_kwh: float
    co2e_g: float
    seconds: float


class Headline(Section):
    """The figures that a colleague is told."""

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
    """Everything that the report says in figures."""

    task: str
    score: str
    """What models of the task are judged by: accuracy, or pearson where a number is predicted."""
    headline: Headline
    rows: tuple[Row, ...]
    compressing_kwh: float
    teacher_kwh: float
    measuring_kwh: float
    inference: EnergyOfInference
    country: str
    intensity_g_per_kwh: float
    energy_method: str
    floor: dict[str, float]
    plain_int8: PlainInt8


def read_evaluations(metrics: Path) -> dict[str, Evaluation]:
    """Return the evaluation of every variant.

    Raises:
        InputError: a variant has not been evaluated.
    """
    found = {}
    for variant in VARIANTS:
        values = _read(metrics / "evaluate" / variant / METRICS)
        found[variant] = Evaluation.model_validate({key: values[key] for key in Evaluation.model_fields})
    return found


def compressing_energy(metrics: Path) -> tuple[float, float, float]:
    """Return the kWh of compressing, of the teacher's fine-tuning, and of measuring.

    Compressing is the four steps, the final export, and the teacher's logits (the part of the teacher stage's energy
    that matches their part of its time). The other exports and all evaluations are measuring.
    """
    teacher = _read(metrics / "teacher" / EMISSIONS)
    share = min(1.0, _read(metrics / "teacher" / METRICS)["logits_seconds"] / teacher["seconds"])
    compressing = teacher["energy_kwh"] * share
    compressing += sum(_read(metrics / step / EMISSIONS)["energy_kwh"] for step in STEPS)
    compressing += _read(metrics / "export" / VARIANTS[-1] / EMISSIONS)["energy_kwh"]
    measuring = sum(_read(metrics / "export" / variant / EMISSIONS)["energy_kwh"] for variant in VARIANTS[:-1])
    measuring += sum(_read(metrics / "evaluate" / variant / EMISSIONS)["energy_kwh"] for variant in VARIANTS)
    return compressing, teacher["energy_kwh"] * (1 - share), measuring


def build_ledger(metrics: Path) -> Ledger:
    """Read the metrics of all stages up to `emissions`."""
    evaluations = read_evaluations(metrics)
    rows = tuple(_row(metrics, variant, evaluations[variant]) for variant in VARIANTS)
    energy = _read(metrics / "emissions" / METRICS)
    cost = _read(metrics / "teacher" / EMISSIONS)
    beside_teacher = _read(metrics / "evaluate" / VARIANTS[0] / METRICS)
    first, last = rows[0], rows[-1]
    return Ledger(
        task=_read(metrics / "prepare" / METRICS)["name"],
        score="accuracy" if evaluations[VARIANTS[0]].quality.task == "classification" else "pearson",
        headline=Headline(
            score_kept=last.score / first.score,
            speedup=last.speedup,
            times_smaller=first.megabytes / last.megabytes,
            payback=Payback.model_validate(energy["payback"]),
        ),
        rows=rows,
        compressing_kwh=energy["compressing_kwh"],
        teacher_kwh=energy["teacher_kwh"],
        measuring_kwh=energy["measuring_kwh"],
        inference=EnergyOfInference.model_validate(energy["inference"]),
        country=cost["country"],
        intensity_g_per_kwh=cost["intensity_g_per_kwh"],
        energy_method=cost["method"],
        floor=beside_teacher["floor"],
        plain_int8=PlainInt8.model_validate(beside_teacher["plain_int8"]),
    )


def shown_score(name: str, value: float) -> str:
    """Return a score as people write it: accuracies as percentages, correlations as they are."""
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"


def eager_milliseconds(evaluation: Evaluation) -> float:
    """Return the median latency of the eager fp32 teacher as timed beside a variant."""
    return evaluation.headline.runners[TEACHER_EAGER].p50


def _row(metrics: Path, variant: str, evaluation: Evaluation) -> Row:
    cost = _read(metrics / variant / EMISSIONS)
    return Row(
        step=variant,
        method=_read(metrics / variant / METRICS).get("method", "fine_tune"),
        score=evaluation.quality.score,
        milliseconds=evaluation.headline.runners[VARIANT].p50,
        speedup=evaluation.headline.speedup_eager,
        megabytes=evaluation.megabytes,
        parameters=evaluation.anatomy.total,
        energy_kwh=cost["energy_kwh"],
        co2e_g=cost["co2e_g"],
        seconds=cost["seconds"],
    )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage that writes it, or `dvc repro`") from None
