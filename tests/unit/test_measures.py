import numpy as np
import pytest

from lissom.data.tables import Row, write_table
from lissom.emissions.payback import payback
from lissom.evaluate.floor import linear_floor
from lissom.interval import Interval
from lissom.tasks.classification import Classification, expected_calibration_error


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
    floor = linear_floor(table, table, table, task)
    assert floor.score == 1.0 and floor.megabytes > 0


def test_a_serving_process_is_not_charged_for_its_parent(tmp_path):
    from lissom.evaluate.variant import peak_rss
    from lissom.export.onnx import export_onnx
    from tests.unit import tiny

    export_onnx(tiny.model("bert"), tmp_path)
    ballast = np.ones(200_000_000, dtype=np.uint8)
    assert 20 < peak_rss(tmp_path) < 150 < ballast.nbytes / 1e6
