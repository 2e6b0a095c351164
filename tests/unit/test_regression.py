"""Numbers instead of classes: read, standardised, learnt, distilled, measured, exported, served in their own unit."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.data.config import DataParams
from lissom.data.encoding import encode
from lissom.data.labels import Scale, standardised
from lissom.data.prepare import load_table, prepare
from lissom.data.tables import Row, write_table
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.errors import DataError, ParamsError
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.floor import measure_floors
from lissom.export.config import ExportParams
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.params import check_params
from lissom.serving.classifier import OnnxClassifier
from lissom.tasks.meter import CorrelationMeter, pearson
from lissom.tasks.regression import Regression
from lissom.training.config import TrainingParams
from lissom.training.loop import fit
from lissom.training.losses import against_targets
from tests.unit import tiny
from tests.unit.distill.recipes import FAST, METHODS, params_of

VALUES = {"great": 950.0, "good": 900.0, "poor": 450.0, "bad": 400.0}
SCALE = Scale(mean=675.0, deviation=251.25)
TASK = Regression(name="tiny", scale=SCALE, pair=False, max_length=16)


def rated(count: int, start: int, labelled: bool) -> list[Row]:
    fillers = [word for word in tiny.WORDS if word not in VALUES]
    rows = []
    for number in range(start, start + count):
        word = list(VALUES)[number % 4]
        words = [fillers[number % 15], fillers[number // 15 % 15], fillers[number * 7 % 13]]
        words.insert(number % 4, word)
        rows.append(Row(" ".join(words), None, repr(VALUES[word]) if labelled else None))
    return rows


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder, teacher = tmp_path_factory.mktemp("rated"), tiny.model("bert", task=TASK)
    tables = {
        name: write_table(folder / f"{name}.arrow", rated(count, start, name != "transfer"))
        for name, (count, start) in {"train": (96, 0), "transfer": (32, 200), "dev": (32, 300)}.items()
    }
    outcome = Material(
        teacher=teacher, tables=tables, scratch=folder, base=lambda seed: tiny.model("bert", seed, task=TASK)
    )
    fit(teacher.network, outcome.encode(teacher, "train"), 0, against_targets(TASK), TrainingParams(**FAST))
    assert tiny.scorer(teacher, outcome.encode(teacher, "dev"))() > 0.95
    return outcome


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
def test_codes_are_standardised_numbers(numbers, mean, deviation):
    codes = standardised([*map(repr, numbers), None], Scale(mean=mean, deviation=deviation))
    assert codes.dtype == np.float32 and math.isnan(codes[-1])
    np.testing.assert_allclose(codes[:-1], (np.asarray(numbers) - mean) / deviation, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_squared_error_and_unlabelled_numbers_add_nothing():
    logits, labels = torch.randn(6, 1, requires_grad=True), torch.randn(6)
    torch.testing.assert_close(TASK.loss(logits, labels), torch.nn.functional.mse_loss(logits[:, 0], labels))
    labels[4:] = math.nan
    TASK.loss(logits, labels).backward()
    expected = torch.cat([2 * (logits.detach()[:4, 0] - labels[:4]) / 6, torch.zeros(2)])
    torch.testing.assert_close(logits.grad[:, 0], expected)


def test_against_a_teacher_numbers_have_a_squared_error_at_any_temperature():
    student, teacher = torch.randn(5, 1), torch.randn(5, 1)
    assert TASK.soft_loss(teacher, teacher, 3.0) == 0
    torch.testing.assert_close(TASK.soft_loss(student, teacher, 3.0), torch.nn.functional.mse_loss(student, teacher))


def test_correlation_agrees_with_numpy_and_a_constant_says_nothing():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=50).astype(np.float32), rng.normal(size=50).astype(np.float32)
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-6)
    assert pearson(first, 3 * first + 2) == pytest.approx(1) and pearson(first, -first) == pytest.approx(-1)
    assert pearson(first, np.full(50, 2.0)) == 0
    whole, halves = CorrelationMeter(), [CorrelationMeter(), CorrelationMeter()]
    whole.add(first[:, None], second)
    for half, meter in zip((slice(25), slice(25, 50)), halves, strict=True):
        meter.add(first[half, None], second[half])
    halves[1].merge(halves[0])
    assert whole.result() == halves[1].result() == pytest.approx(pearson(first, second), abs=1e-12)


def test_quality_of_numbers_agrees_with_scipy_and_is_in_their_unit():
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(1)
    truth, actual, teacher = (rng.normal(size=80).round(1).astype(np.float32) for _ in range(3))
    quality = TASK.quality(actual[:, None], teacher[:, None], truth, 15)
    assert quality.figures["pearson"] == quality.score == pytest.approx(pearsonr(actual, truth).statistic, abs=1e-6)
    assert quality.figures["spearman"] == pytest.approx(spearmanr(actual, truth).statistic, abs=1e-6)
    assert quality.agreement == pytest.approx(pearsonr(actual, teacher).statistic, abs=1e-6)
    assert quality.figures["mean_absolute_error"] == pytest.approx(
        np.abs(actual - truth).mean() * SCALE.deviation, rel=1e-5
    )
    assert quality.figures["root_mean_squared_error"] >= quality.figures["mean_absolute_error"]


def test_numbers_are_read_checked_and_held_out_by_their_deciles(tmp_path):
    folder, output = tmp_path / "data", tmp_path / "prepared"
    folder.mkdir(), output.mkdir()
    lines = [{"text": f"text {number}", "label": number / 4} for number in range(200)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    params = DataParams(source=f"files:{folder}", task="regression")
    card = prepare(params, output)
    train, dev = ([float(label) for label in load_table(output, split).labels()] for split in ("train", "dev"))
    assert card.labels == () and len(dev) == 20
    assert card.scale.mean == pytest.approx(np.mean(train)) and card.scale.deviation == pytest.approx(np.std(train))
    assert [sum(tenth * 5 <= number < tenth * 5 + 5 for number in dev) for tenth in range(10)] == [2] * 10
    (folder / "train.jsonl").write_text(json.dumps({"text": "text", "label": "warm"}) + "\n")
    with pytest.raises(DataError, match=r"line 1: the label is 'warm'; with data.task: regression a finite number"):
        prepare(params, output)


@pytest.mark.parametrize("distillation", [{"method": "fastbert"}, {"method": "deep_to_shallow"}])
def test_exits_need_labels(distillation):
    values = {
        "base": {"model": "dir:base"}, "data": {"source": "files:data", "task": "regression"}, "distill": distillation,
    }  # fmt: skip
    with pytest.raises(ParamsError, match="a number without one"):
        check_params(values)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fastbert"])
def test_every_method_without_exits_learns_numbers(method, material):
    changes = {"keep_exits": False} if method == "deep_to_shallow" else {}
    student = distill(params_of(method, **changes), material).model
    assert student.network.config.num_labels == 1
    assert tiny.scorer(student, material.encode(student, "dev"))() > 0.8


def test_a_served_model_answers_in_the_unit_of_the_numbers(material, tmp_path):
    model, dev = material.teacher, material.encode(material.teacher, "dev")
    parity = check_parity(model, export_onnx(model, tmp_path), dev, ExportParams())
    assert parity.agreement is None
    texts = [text for text, _ in material.tables["dev"].texts()]
    truth = [float(label) for label in material.tables["dev"].labels()]
    actual = [answer["value"] for answer in OnnxClassifier(tmp_path).predict(texts)]
    assert np.abs(np.subtract(actual, truth)).mean() < 0.3 * SCALE.deviation


def test_the_floor_predicts_numbers(tmp_path):
    table = write_table(tmp_path / "t.arrow", rated(96, 0, True))
    tables = dict.fromkeys(("train", "dev", "test"), table)
    params = EvaluateParams(retries=0, seconds=0.1)
    linear, static = measure_floors(tables, TASK, lambda: tiny.model("bert", task=TASK), params, tmp_path)[0]
    assert linear.score > 0.95 and static.score > 0.5


def test_examples_without_a_number_are_not_taken_for_labelled(tmp_path):
    tables = [write_table(tmp_path / f"{labelled}.arrow", rated(8, 0, labelled)) for labelled in (True, False)]
    data = encode(tables, tiny.tokenizer(), 16, TASK.targets, tmp_path / "tokens")
    assert data.labelled(99).tolist() == list(range(8))
