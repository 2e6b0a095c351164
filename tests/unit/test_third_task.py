"""A third kind of task, which lives here alone: judged by an error, where lower is better.

It goes through training, compression, export, measurement, the ledger, the page, the gates, the champion's rule and the
comparison of a retraining, and none of these knows its kind. What a real one adds beside its file is a member of the
union in `lissom.tasks.kinds` and the `case`s there, in serving and on the model card.
"""

from typing import Literal

import numpy as np
import pytest

from lissom.artifacts import EXPORT_RECORD, write_json
from lissom.data.prepare import DataCard
from lissom.data.tables import write_table
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.floor import measure_floors
from lissom.evaluate.plain_int8 import evaluate_plain_int8
from lissom.evaluate.variant import Subject, evaluate_variant
from lissom.export.config import ExportParams
from lissom.export.exported import ExportRecord
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.manifest import Step
from lissom.prune.config import FirstOrderPruning
from lissom.prune.plan import plan
from lissom.report.ledger import build_ledger
from lissom.report.page import render_page
from lissom.report.tables import markdown
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality
from lissom.tasks.regression import Regression
from lissom.tracking.config import GatesParams
from lissom.tracking.registry import _beats, failed_gates, version_tags
from lissom.training.compress import compress
from lissom.training.config import TrainingParams
from lissom.training.losses import against_targets
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, params_of
from tests.unit.test_regression import SCALE, rated

ERROR = Metric(name="error", higher_is_better=False)


class ErrorMeter:
    """Mean distance, standardised."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, answers, targets):
        self.total += float(np.abs(answers[:, 0] - targets).sum())
        self.count += len(targets)

    def merge(self, other):
        self.total, self.count = self.total + other.total, self.count + other.count

    def result(self):
        return self.total / self.count


class Distance(Regression):
    """A number, judged by its error."""

    kind: Literal["distance"] = "distance"

    @property
    def metric(self):
        return ERROR

    def meter(self):
        return ErrorMeter()

    def quality(self, answers, teacher, targets, bins):
        meter = self.meter()
        meter.add(answers, targets)
        return Quality(examples=len(targets), score=meter.result(), agreement=1.0, figures={"error": meter.result()})


TASK = Distance(name="ratings", scale=SCALE, pair=False, max_length=16)
COST = {
    "energy_kwh": 1e-6,
    "co2e_g": 1e-3,
    "seconds": 3.0,
    "country": "DEU",
    "method": "estimated",
    "intensity_g_per_kwh": 380.0,
}
SETTINGS = EvaluateParams(batch_sizes=(1,), samples=10, seconds=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Teacher, student and pruned student with their files, as the stages make them."""
    folder = tmp_path_factory.mktemp("third")
    sizes = {"train": (96, 0, True), "transfer": (32, 200, False), "dev": (32, 300, True), "test": (48, 400, True)}
    tables = {name: write_table(folder / f"{name}.arrow", rated(*size)) for name, size in sizes.items()}
    teacher = tiny.model("bert", task=Regression(**TASK.model_dump(exclude={"kind"})))
    # Unchecked: the union of all tasks, which a real one would join, does not have this one.
    teacher.manifest = teacher.manifest.model_copy(update={"task": TASK})
    material = Material(teacher=teacher, tables=tables, scratch=folder)
    fitted = material.train(
        "teacher", teacher.network, material.encode(teacher, "train"), 0, against_targets(TASK), TrainingParams(**FAST),
        identity="", score=material.scorer(teacher, TrainingParams(**FAST)),
    )  # fmt: skip
    student = distill(params_of("logits", blocks=[0, 2, 3]), material).model
    before = material.scorer(student, TrainingParams(**FAST))()
    pruning = FirstOrderPruning(method="first_order", heads=0.75, neuron_multiple=8, training=FAST)
    done = compress(
        student, plan(student, material, pruning), material, material.teacher_logits(pruning.training), pruning.training
    )
    subjects = {}
    for name, model in (("teacher", teacher), ("quantize", student)):
        place = folder / name
        place.mkdir()
        exported = export_onnx(model, place)
        parity = check_parity(model, exported, material.encode(model, "dev"), ExportParams())
        record = ExportRecord(format="onnx", files=dict(exported.files), integer_kernels=0, parity=parity, cost=COST)
        write_json(place / EXPORT_RECORD, record.model_dump(mode="json"))
        subjects[name] = Subject(model, exported, material.encode(model, "test"))
    return material, fitted, before, done, subjects


@pytest.fixture(scope="module")
def ledger(run, tmp_path_factory):
    material, _, _, _, subjects = run
    evaluations = {
        name: evaluate_variant(name, subject, subjects["teacher"], SETTINGS) for name, subject in subjects.items()
    }
    floors, absent = measure_floors(material.tables, material.teacher, SETTINGS, tmp_path_factory.mktemp("floors"))
    baselines = {
        "floors": floors,
        "absent_floors": absent,
        "plain_int8": evaluate_plain_int8(subjects["teacher"], SETTINGS, tmp_path_factory.mktemp("plain")),
    }
    evaluations["teacher"] = evaluations["teacher"].model_copy(update=baselines)
    steps = tuple(
        Step(stage=name, method="m", metrics={"logits_seconds": 1.0}, cost=COST) for name in ("teacher", "quantize")
    )
    manifest = subjects["quantize"].model.manifest.model_copy(update={"steps": steps})
    interval = {"mean": 1e-9, "low": 5e-10, "high": 2e-9, "samples": 5}
    payback = {"inferences": 10.0, "low": 5.0, "high": 20.0, "days": 0.1, "requests_per_day": 100.0}
    energy = {
        "compressing_kwh": 1e-6, "teacher_kwh": 1e-6, "measuring_kwh": 1e-6, "payback": payback,
        "inference": {"teacher": interval, "artifact": interval, "saved": interval},
    }  # fmt: skip
    return build_ledger(manifest, evaluations, energy), evaluations, manifest


def test_it_is_learnt_with_the_lowest_dev_score_kept(run):
    material, fitted, before, done, _ = run
    looks = [record["dev_score"] for record in fitted.records if "dev_score" in record]
    assert fitted.best_score == min(looks) < looks[0]
    assert material.scorer(material.teacher, TrainingParams(**FAST))() == pytest.approx(fitted.best_score, abs=1e-5)
    assert before < 0.6 and done.metrics["dev_score"] <= done.metrics["dev_score_before_training"]


def test_ledger_page_and_gates_know_that_lower_is_better(ledger):
    outcome, evaluations, manifest = ledger
    teacher, final = outcome.rows
    assert outcome.metric == ERROR and outcome.headline.score_kept == pytest.approx(teacher.score / final.score)
    assert [floor.score > 0 for floor in outcome.floors] == [True, True]
    assert outcome.strongest_floor.dev_score == min(floor.dev_score for floor in outcome.floors)
    card = DataCard(
        name="ratings", task="regression", source="files:ratings", labels=(), scale=SCALE, pair=False, rows={"train": 96},
        label_counts={}, duplicates={},
    )  # fmt: skip
    page = render_page(outcome, evaluations, manifest, card)
    assert "test error" in page and "<h2>Labels</h2>" not in page and "error" in markdown(outcome)
    worse = outcome.model_copy(update={"rows": (teacher, final.model_copy(update={"score": teacher.score * 1.5}))})
    better = outcome.model_copy(update={"rows": (teacher, final.model_copy(update={"score": teacher.score * 0.5}))})
    loose = GatesParams(max_score_drop=0.1, min_speedup=1e-9, max_megabytes=1e9)
    assert failed_gates(better, loose) == [] and "error is worse" in failed_gates(worse, loose)[0]


def test_the_champion_is_beaten_by_a_lower_score(ledger, run):
    outcome, _, _ = ledger
    exported = run[-1]["quantize"].exported.folder
    champion = {f"lissom.{name}": value for name, value in version_tags(outcome, exported, "dir:base").items()}
    final = outcome.rows[-1]
    lower, higher = (
        outcome.model_copy(update={"rows": (outcome.rows[0], final.model_copy(update={"score": final.score * factor}))})
        for factor in (0.9, 1.1)
    )
    assert _beats(champion, lower)[0] and not _beats(champion, higher)[0] and not _beats(champion, outcome)[0]
