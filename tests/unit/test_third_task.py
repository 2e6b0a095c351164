"""A third kind of task, which lives here alone: judged by an error, where lower is better.

It goes through training, compression, export, measurement, the ledger, the page, the gates, the champion's rule and the
comparison of a retraining, and none of these knows its kind. What a real one adds beside its file is a member of the
union in `lissom.tasks.kinds` and the `case`s there, in serving and on the model card.
"""

from typing import Literal

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lissom.artifacts import EXPORT_RECORD, write_json
from lissom.data.prepare import DataCard
from lissom.data.tables import write_table
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.emissions.config import EmissionsParams
from lissom.emissions.sci import in_words
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import PlainInt8
from lissom.evaluate.floor import measure_floors
from lissom.evaluate.paired import changed_answers
from lissom.evaluate.variant import Reference, Subject, evaluate_variant
from lissom.export.baselines import open_baselines, write_baselines
from lissom.export.config import ExportParams
from lissom.export.exported import ExportRecord, split_answers
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.manifest import Step
from lissom.prune.config import FirstOrderPruning
from lissom.prune.plan import plan
from lissom.report.ledger import build_ledger
from lissom.report.page import render_page
from lissom.report.standards import boamps_inference, boamps_training, sci_statement
from lissom.report.summary import summary
from lissom.report.tables import markdown
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality
from lissom.tasks.regression import Regression
from lissom.tracking.champion import decide, run_duel
from lissom.tracking.config import GatesParams
from lissom.tracking.model_card import model_card
from lissom.tracking.registry import failed_gates
from lissom.training.compress import compress
from lissom.training.config import TrainingParams
from lissom.training.losses import against_targets
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, params_of
from tests.unit.test_boamps import problems
from tests.unit.test_front_matter import HOSTILE
from tests.unit.test_registry import around
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
    "error_kwh": 1e-7,
    "co2e_g": 1e-3,
    "seconds": 3.0,
    "country": "DEU",
    "method": "model",
    "intensity_g_per_kwh": 380.0,
    "tracker": "codecarbon 3.3.2",
}
CARD = DataCard(
    name="ratings", task="regression", source="files:ratings", labels=(), scale=SCALE, pair=False,
    rows={"train": 96, "transfer": 32}, label_counts={}, duplicates={},
)  # fmt: skip
SETTINGS = EvaluateParams(batch_sizes=(1,), seconds=0.1, retries=0)


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
        if name == "teacher":
            write_baselines(model, place)
        subjects[name] = Subject(model, exported, material.encode(model, "test"))
    return material, fitted, before, done, subjects


@pytest.fixture(scope="module")
def ledger(run, tmp_path_factory):
    material, _, _, _, subjects = run
    reference = Reference(subjects["teacher"], open_baselines(subjects["teacher"].exported.folder))
    results = {name: evaluate_variant(name, subject, reference, SETTINGS) for name, subject in subjects.items()}
    evaluations = {name: evaluation for name, (evaluation, _, _) in results.items()}
    test = subjects["teacher"].test
    teacher_answers = results["teacher"][1]
    floors, absent = measure_floors(
        material.tables, TASK, lambda: material.teacher, SETTINGS, tmp_path_factory.mktemp("floors")
    )
    baselines = {
        "floors": floors,
        "absent_floors": absent,
        "plain_int8": tuple(
            PlainInt8(
                name=name,
                megabytes=1.0,
                quality=TASK.quality(split_answers(file, test, TASK), teacher_answers, test.targets, 15),
            )
            for name, file in reference.int8.items()
        ),
    }
    evaluations["teacher"] = evaluations["teacher"].model_copy(update=baselines)
    steps = tuple(
        Step(stage=name, method="m", metrics={"logits_seconds": 1.0}, cost=COST) for name in ("teacher", "quantize")
    )
    manifest = subjects["quantize"].model.manifest.model_copy(update={"steps": steps})
    interval = {"value": 1.0, "low": 0.5, "high": 2.0}
    power = {"watts": interval, "method": "model"}
    conditions = {"rounds": 5, "discarded": 0, "foreign_cpus": 0.0, "disturbed": None}
    energy = {
        "spent": {
            "compressing": {"value": 1e-6, "low": 5e-7, "high": 2e-6}, "teacher_kwh": 1e-6, "measuring_kwh": 1e-6,
            "incomplete": [], "with_others": [],
        },
        "payback": {"inferences": 10.0, "low": 5.0, "high": 20.0, "days": 0.1, "requests_per_day": 100.0},
        "inference": {
            "teacher": interval, "artifact": interval, "saved": interval, "conditions": conditions,
            "power": {"teacher": power, "artifact": power},
        },
    }  # fmt: skip
    changes = changed_answers(TASK, *results["quantize"][1:], test, material.tables["test"])
    return build_ledger(manifest, evaluations, energy), evaluations, manifest, changes


def test_it_is_learnt_with_the_lowest_dev_score_kept(run):
    material, fitted, before, done, _ = run
    looks = [record["dev_score"] for record in fitted.records if "dev_score" in record]
    assert fitted.best_score == min(looks) < looks[0]
    assert material.scorer(material.teacher, TrainingParams(**FAST))() == pytest.approx(fitted.best_score, abs=1e-5)
    assert before < 0.6 and done.metrics["dev_score"] <= done.metrics["dev_score_before_training"]


def test_ledger_page_and_gates_know_that_lower_is_better(ledger):
    outcome, evaluations, manifest, changes = ledger
    teacher, final = outcome.rows
    kept, drop = outcome.headline.kept, outcome.headline.drop
    assert outcome.metric == ERROR and kept.value == pytest.approx(teacher.score / final.score)
    assert drop.value == pytest.approx(final.score / teacher.score - 1) and drop.low <= drop.value <= drop.high
    assert [floor.score > 0 for floor in outcome.floors] == [True, True]
    assert outcome.strongest_floor.dev_score == min(floor.dev_score for floor in outcome.floors)
    page = render_page(outcome, evaluations, manifest, CARD, changes, "the SCI")
    assert "the SCI" in page and "test error" in page and "<h2>Labels</h2>" not in page and "error" in markdown(outcome)
    worse, better = (
        outcome.model_copy(update={"headline": outcome.headline.model_copy(update={"drop": around(lost)})})
        for lost in (0.5, -0.5)
    )
    assert "Error is -50.0% against the teacher's" in render_page(better, evaluations, manifest, CARD, changes, "")
    loose = GatesParams(max_score_drop=0.1, min_speedup={}, max_megabytes=1e9)
    assert failed_gates(better, loose) == [] and "error is worse" in failed_gates(worse, loose)[0]


def test_a_disturbed_or_absent_floor_is_told(ledger):
    outcome = ledger[0]
    conditions = outcome.floors[1].conditions.model_copy(update={"disturbed": "a busy neighbour"})
    floors = (outcome.floors[0], outcome.floors[1].model_copy(update={"conditions": conditions}))
    told = markdown(outcome.model_copy(update={"floors": floors, "absent_floors": {"TF-IDF": "no characters"}}))
    assert "latency of static embeddings was disturbed: a busy neighbour" in told
    assert "floor, TF-IDF: could not be made: no characters" in told


def test_the_champion_is_run_again_and_beaten_by_a_lower_error(run, tmp_path):
    material, _, _, _, subjects = run
    teacher, final = (subjects[name].exported.folder for name in ("teacher", "quantize"))
    for name in ("forwards", "backwards"):
        (tmp_path / name).mkdir()
    forwards = run_duel(
        final, teacher, material.tables["dev"], material.tables["test"], TASK, tmp_path / "forwards", seconds=0.1
    )
    backwards = run_duel(
        teacher, final, material.tables["dev"], material.tables["test"], TASK, tmp_path / "backwards", seconds=0.1
    )
    assert forwards.times_smaller > 1 > backwards.times_smaller
    better, worse = (forwards, backwards) if forwards.scores.drop.value < 0 else (backwards, forwards)
    assert better.scores.drop.value < 0 < worse.scores.drop.value
    clear = better.scores.model_copy(update={"drop": better.scores.drop.model_copy(update={"high": -1e-6})})
    assert decide(better.model_copy(update={"scores": clear}), ERROR, GatesParams())[0]
    assert not decide(worse, ERROR, GatesParams(champion_margin=0.0))[0]


def test_standards_and_summary_know_it(ledger):
    outcome, evaluations, manifest, _ = ledger
    sci = sci_statement(outcome, evaluations["quantize"], manifest, EmissionsParams())
    assert (
        sci.teacher.components[0].operational_g
        == sci.artifact.components[0].operational_g
        == pytest.approx(1 / 3.6e9 * 380)
    )
    trained = [score.components[1].energy_kwh * sci.service_inferences for score in (sci.teacher, sci.artifact)]
    assert trained == pytest.approx([1e-6, 2e-6])  # one step, and both
    for report in (boamps_training, boamps_inference):
        assert problems(report(outcome, evaluations["quantize"], manifest, CARD)) == []
    shown = summary(outcome, sci)
    assert (
        shown["error"] == pytest.approx(outcome.rows[-1].score, rel=1e-4) and shown["joules_per_1000_inferences"] == 1.0
    )
    assert shown.pop("disturbed") in (0, 1) and shown.pop("energy_measured") == 0
    # DVC shows five decimal places.
    assert all(abs(round(value, 5) / value - 1) < 0.01 for value in shown.values())


@pytest.mark.parametrize(("inference", "stages"), [("measured", "model"), ("model", "measured")])
def test_every_energy_is_called_what_it_is(ledger, inference, stages):
    """Stages may have run elsewhere, where the processor counts its energy or does not."""
    outcome, evaluations, manifest, _ = ledger
    power = {name: each.model_copy(update={"method": inference}) for name, each in outcome.inference.power.items()}
    measured = outcome.inference.model_copy(update={"power": power})
    mixed = outcome.model_copy(update={"inference": measured, "energy_method": stages})
    sci = sci_statement(mixed, evaluations["quantize"], manifest, EmissionsParams())
    assert f"energy of an inference: {inference}, of the trainings: {stages}" in in_words(sci)
    assert f"of an inference: {inference}; of the trainings: {stages}" in sci.quantification
    report = boamps_inference(mixed, evaluations["quantize"], manifest, CARD)
    assert report["measures"][0]["cpuTrackingMode"] == inference
    assert f"Wh ({stages})" in markdown(mixed) and f"(power: {inference})" in markdown(mixed)
    assert not mixed.is_measured and outcome.energy_method == "model"


def test_a_row_of_other_tokens_is_told_on_the_teachers_scale(ledger):
    outcome, evaluations, manifest, _ = ledger
    energy = {
        "spent": outcome.spent.model_dump(), "payback": outcome.headline.payback.model_dump(),
        "inference": outcome.inference.model_dump(),
    }  # fmt: skip
    final = evaluations["quantize"]
    apart = final.model_copy(
        update={
            "quality": final.quality.model_copy(update={"agreement": None, "score": 1e-3}),
            "paired": final.paired.model_copy(update={"drop": around(0.3)}),
        }
    )
    told = build_ledger(manifest, evaluations | {"quantize": apart}, energy)
    assert told.rows[-1].score == pytest.approx(1.3 * told.rows[0].score)


def test_the_card_of_a_task_with_a_hostile_name(ledger):
    outcome, evaluations, manifest, _ = ledger
    task = manifest.task.model_copy(update={"name": HOSTILE})
    text = model_card(
        outcome.model_copy(update={"task": HOSTILE}), evaluations["quantize"], manifest.model_copy(update={"task": task}),
        CARD.model_copy(update={"name": HOSTILE}),
    )  # fmt: skip
    card = ModelCard(text)
    assert card.data.model_name == f"lissom-{HOSTILE}" and card.data.license is None
    assert card.data.to_dict()["co2_eq_emissions"]["emissions"] == pytest.approx(2e-6 * 380)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<img" not in page and page.count("<h1>") == 1 and page.count("<table>") == 1


def test_reasons_on_the_card_cannot_bring_markup(ledger):
    outcome, evaluations, manifest, _ = ledger
    hostile = outcome.model_copy(
        update={"absent_floors": {"linear": HOSTILE}, "country": HOSTILE, "energy_method": HOSTILE}
    )
    card = ModelCard(model_card(hostile, evaluations["quantize"], manifest, CARD))
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<img" not in page and page.count("<h1>") == 1 and page.count("<table>") == 1


def test_what_is_not_known_of_energy_and_teacher_is_told(ledger):
    outcome = ledger[0]
    assert "resumed" not in markdown(outcome) and "after its last epoch" not in markdown(outcome)
    spent = outcome.spent.model_copy(update={"incomplete": ("distill",), "with_others": ("prune",)})
    told = markdown(outcome.model_copy(update={"spent": spent, "teacher_still_improved": True}))
    assert "energy of distill: interrupted and resumed" in told and "energy of prune: several processes" in told
    assert "best after its last epoch" in told
