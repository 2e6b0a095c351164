import numpy as np
import pytest

from lissom.data.tables import Row, write_table
from lissom.emissions.payback import payback
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import Floor, strongest
from lissom.evaluate.floor import measure_floors
from lissom.interval import Interval
from lissom.tasks.classification import Classification, expected_calibration_error
from lissom.tasks.metric import ACCURACY, Metric
from tests.unit import tiny
from tests.unit.test_latency import timing

QUICK = EvaluateParams(seconds=0.1, retries=0)


def logits_for(labels, classes=3, margin=5.0):
    return (np.eye(classes)[labels] * margin).astype(np.float32)


def test_quality_agrees_with_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    labels, predicted, teacher = (rng.integers(0, 3, 200) for _ in range(3))
    task = Classification(name="t", labels=("a", "b", "c"), pair=False, max_length=8)
    quality = task.quality(logits_for(predicted), logits_for(teacher), labels, 15)
    figures = quality.figures
    assert figures["accuracy"] == quality.score == pytest.approx(accuracy_score(labels, predicted))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted)
    for index, name in enumerate("abc"):
        actual = quality.per_label[name]
        expected = {"precision": precision[index], "recall": recall[index], "f1": f1[index], "support": support[index]}
        assert actual == pytest.approx(expected)
    assert quality.agreement == pytest.approx((predicted == teacher).mean())
    teachers = (teacher == labels).mean()
    assert quality.score == pytest.approx(teachers - figures["flip_rate"] + figures["gain_rate"])


def test_calibration_error():
    certain = np.array([[1.0, 0.0]] * 10, dtype=np.float32)
    assert expected_calibration_error(certain, np.zeros(10, dtype=np.int64), 15) == pytest.approx(0)
    assert expected_calibration_error(certain, np.ones(10, dtype=np.int64), 15) == pytest.approx(1)
    honest = np.array([[0.8, 0.2]] * 10, dtype=np.float32)
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(honest, labels, 15) == pytest.approx(0, abs=1e-6)


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def test_payback_divides_and_knows_never():
    spent = interval(1e-3, 0.9e-3, 1.2e-3)
    actual = payback(spent, interval(2e-9, 1e-9, 4e-9), requests_per_day=1e5)
    assert (actual.inferences, actual.low, actual.high) == pytest.approx((5e5, 0.9e-3 / 4e-9, 1.2e-3 / 1e-9))
    assert actual.days == pytest.approx(5.0)
    unsure = payback(spent, interval(1e-9, -1e-9, 3e-9), 1.0)
    assert unsure.high is None and unsure.inferences is not None
    never = payback(spent, interval(-1e-9, -2e-9, 0.0), 1.0)
    assert never.inferences is never.low is never.high is never.days is None


@pytest.mark.parametrize("pair", [False, True])
def test_the_floor_learns_what_is_linear(pair, tmp_path):
    rows = [
        Row(f"{word} film {n}", f"{word} or not" if pair else None, word) for n in range(30) for word in ("good", "bad")
    ]
    table = write_table(tmp_path / "t.arrow", rows)
    task = Classification(name="t", labels=("bad", "good"), pair=pair, max_length=8)
    tables = dict.fromkeys(("train", "dev", "test"), table)
    floors, absent = measure_floors(tables, task, lambda: tiny.model("bert", task=task), QUICK, tmp_path)
    assert [floor.model for floor in floors] == ["TF-IDF + LogisticRegression", "static embeddings"] and not absent
    assert all(floor.score == 1.0 and floor.megabytes > 0 for floor in floors)
    assert floors[1].latency.samples >= 10


@pytest.mark.parametrize("alphabet", ["\U0001f600\U0001f622\U0001f44d\U0001f44e", "\u597d\u574f\u5927\u5c0f"])
def test_texts_of_one_character_have_a_floor(alphabet, tmp_path):
    rows = [Row(letter, None, ("bad", "good")[number % 2]) for number, letter in enumerate(alphabet * 8)]
    tables = {name: write_table(tmp_path / f"{name}.arrow", rows) for name in ("train", "dev", "test")}
    task = Classification(name="t", labels=("bad", "good"), pair=False, max_length=8)
    floors, absent = measure_floors(tables, task, lambda: tiny.model("bert", task=task), QUICK, tmp_path)
    assert floors[0].model.startswith("TF-IDF") and floors[0].score == 1.0 and not absent


def test_a_floor_that_cannot_be_made_is_told_with_the_reason(tmp_path):
    rows = [Row("", None, label) for label in ("bad", "good") * 8]
    tables = {name: write_table(tmp_path / f"{name}.arrow", rows) for name in ("train", "dev", "test")}
    task = Classification(name="t", labels=("bad", "good"), pair=False, max_length=8)
    floors, absent = measure_floors(tables, task, lambda: tiny.model("bert", task=task), QUICK, tmp_path)
    assert absent == {"TF-IDF": "the texts have no characters"}
    assert [floor.model for floor in floors] == ["static embeddings"] and floors[0].score == 0.5


def test_the_strongest_floor_is_chosen_by_dev():
    def floor(model: str, dev: float, test: float) -> Floor:
        times = timing([[0.001] * 20])
        return Floor(
            model=model, score=test, dev_score=dev, settings={}, latency=times.latency("a"),
            conditions=times.conditions, megabytes=1.0,
        )  # fmt: skip

    floors = [floor("a", 0.8, 0.9), floor("b", 0.85, 0.7), floor("c", 0.85, 0.95)]
    assert strongest(floors, ACCURACY).model == "b"
    assert strongest(floors, Metric(name="error", higher_is_better=False)).model == "a"
    assert strongest([], ACCURACY) is None


def test_a_serving_process_is_not_charged_for_its_parent(tmp_path):
    from lissom.evaluate.variant import peak_rss
    from lissom.export.onnx import export_onnx

    export_onnx(tiny.model("bert"), tmp_path)
    ballast = np.ones(200_000_000, dtype=np.uint8)
    assert 20 < peak_rss(tmp_path) < 150 < ballast.nbytes / 1e6
