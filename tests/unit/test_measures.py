import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.data.tables import Row, write_table
from lissom.emissions.payback import Interval, interval, payback
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import Floor, strongest
from lissom.evaluate.floor import measure_floors
from lissom.evaluate.latency import measure_latency, summarize
from lissom.tasks.classification import Classification, expected_calibration_error
from lissom.tasks.metric import ACCURACY, Metric
from tests.unit import tiny

QUICK = EvaluateParams(samples=10, seconds=0.1)


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


@given(st.lists(st.floats(1e-9, 1e-3), min_size=3, max_size=12))
def test_intervals_hold_their_mean(samples):
    actual = interval(samples)
    assert actual.low <= actual.mean <= actual.high and actual.samples == len(samples)


def test_the_interval_is_students():
    actual = interval([1.0, 2.0, 3.0])  # t(2) = 4.303, s = 1
    assert actual.high - actual.mean == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_payback_divides_and_knows_never():
    saved = Interval(mean=2e-9, low=1e-9, high=4e-9, samples=5)
    actual = payback(1e-3, saved, requests_per_day=1e5)
    assert (actual.inferences, actual.low, actual.high) == pytest.approx((5e5, 2.5e5, 1e6))
    assert actual.days == pytest.approx(5.0)
    unsure = payback(1e-3, Interval(mean=1e-9, low=-1e-9, high=3e-9, samples=5), 1.0)
    assert unsure.high is None and unsure.inferences is not None
    never = payback(1e-3, Interval(mean=-1e-9, low=-2e-9, high=0.0, samples=5), 1.0)
    assert never.inferences is never.low is never.high is never.days is None


def test_runners_take_turns_on_the_same_batches():
    calls = []
    runners = {name: lambda batch, name=name: calls.append((name, batch)) for name in ("a", "b")}
    actual = measure_latency(runners, batches=3, batch_size=2, samples=8, seconds=60)
    assert {name: latency.samples for name, latency in actual.items()} == {"a": 8, "b": 8}
    body = calls[2:]  # the first call of each tells how long a call takes
    turns = [name for position, (name, _) in enumerate(body) if position == 0 or body[position - 1][0] != name]
    assert turns == ["a", "b", "a", "b"]
    assert [batch for name, batch in body if name == "a"] == [batch for name, batch in body if name == "b"]


def test_percentiles_that_the_samples_do_not_support_are_left_out():
    few, some, many = (summarize([0.001] * count, 4) for count in (5, 50, 500))
    assert few.p95 is None and few.p99 is None
    assert some.p95 == pytest.approx(1) and some.p99 is None
    assert many.p99 == pytest.approx(1)
    assert many.p50 == pytest.approx(1) and many.examples_per_second == pytest.approx(4000)


@pytest.mark.parametrize("pair", [False, True])
def test_the_floor_learns_what_is_linear(pair, tmp_path):
    rows = [
        Row(f"{word} film {n}", f"{word} or not" if pair else None, word) for n in range(30) for word in ("good", "bad")
    ]
    table = write_table(tmp_path / "t.arrow", rows)
    task = Classification(name="t", labels=("bad", "good"), pair=pair, max_length=8)
    tables = dict.fromkeys(("train", "dev", "test"), table)
    floors, absent = measure_floors(tables, tiny.model("bert", task=task), QUICK, tmp_path)
    assert [floor.model for floor in floors] == ["TF-IDF + LogisticRegression", "static embeddings"] and not absent
    assert all(floor.score == 1.0 and floor.megabytes > 0 for floor in floors)
    assert floors[1].latency.samples >= 10


@pytest.mark.parametrize("alphabet", ["\U0001f600\U0001f622\U0001f44d\U0001f44e", "\u597d\u574f\u5927\u5c0f"])
def test_texts_of_one_character_have_a_floor(alphabet, tmp_path):
    rows = [Row(letter, None, ("bad", "good")[number % 2]) for number, letter in enumerate(alphabet * 8)]
    tables = {name: write_table(tmp_path / f"{name}.arrow", rows) for name in ("train", "dev", "test")}
    task = Classification(name="t", labels=("bad", "good"), pair=False, max_length=8)
    floors, absent = measure_floors(tables, tiny.model("bert", task=task), QUICK, tmp_path)
    assert floors[0].model.startswith("TF-IDF") and floors[0].score == 1.0 and not absent


def test_a_floor_that_cannot_be_made_is_told_with_the_reason(tmp_path):
    rows = [Row("", None, label) for label in ("bad", "good") * 8]
    tables = {name: write_table(tmp_path / f"{name}.arrow", rows) for name in ("train", "dev", "test")}
    task = Classification(name="t", labels=("bad", "good"), pair=False, max_length=8)
    floors, absent = measure_floors(tables, tiny.model("bert", task=task), QUICK, tmp_path)
    assert absent == {"TF-IDF": "the texts have no characters"}
    assert [floor.model for floor in floors] == ["static embeddings"] and floors[0].score == 0.5


def test_the_strongest_floor_is_chosen_by_dev():
    def floor(model: str, dev: float, test: float) -> Floor:
        latency = summarize([0.001] * 20, 1)
        return Floor(model=model, score=test, dev_score=dev, settings={}, latency=latency, megabytes=1.0)

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
