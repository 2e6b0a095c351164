import numpy as np
import pytest

from lissom.data.encoding import Encoded
from lissom.data.labels import Scale
from lissom.data.tables import Row, write_table
from lissom.evaluate.paired import changed_answers, compare_scores, read_changes, write_changes
from lissom.tasks.classification import Classification
from lissom.tasks.regression import Regression

TASK = Classification(name="t", labels=("a", "b", "c"), pair=False, max_length=8)
NUMBER = Regression(name="n", scale=Scale(mean=10.0, deviation=2.0), pair=False, max_length=8)


def logits(labels):
    return (np.eye(3)[labels] * 5).astype(np.float32)


def examples(truth):
    """As many empty texts as there are targets."""
    empty = np.zeros(0, dtype=np.int32)
    return Encoded(empty, empty.astype(np.uint8), np.zeros(len(truth) + 1, dtype=np.int64), truth)


def test_the_same_answers_show_no_difference_at_all():
    labels = np.random.default_rng(0).integers(0, 3, 100)
    answers = logits(np.random.default_rng(1).integers(0, 3, 100))
    paired = compare_scores(TASK, answers, answers, examples(labels))
    assert (paired.drop.low, paired.drop.high, paired.kept.low, paired.kept.high) == (0, 0, 1, 1)


@pytest.mark.parametrize(("lost", "gained", "excludes"), [(40, 5, True), (22, 20, False), (5, 40, True)])
def test_the_interval_agrees_with_mcnemar(lost, gained, excludes):
    """Both use the examples that only one model has right; 40 against 5 is p < 1e-6, 22 against 20 is p = 0.88."""
    count = 400
    truth = np.zeros(count, dtype=np.int64)
    teacher, variant = truth.copy(), truth.copy()
    variant[:lost], teacher[lost : lost + gained] = 1, 1
    paired = compare_scores(TASK, logits(variant), logits(teacher), examples(truth))
    assert paired.drop.value == pytest.approx((lost - gained) / count)
    assert paired.drop.excludes(0) == excludes
    assert paired.kept.excludes(1) == excludes and (paired.kept.value > 1) == (gained > lost)


def test_pairs_are_narrower_than_two_samples():
    """What is hard for both models cancels."""
    truth = np.zeros(500, dtype=np.int64)
    teacher = np.where(np.arange(500) < 150, 1, 0)  # both fail on these
    variant = np.where(np.arange(500) < 155, 1, 0)
    paired = compare_scores(TASK, logits(variant), logits(teacher), examples(truth))
    width = paired.drop.high - paired.drop.low
    alone = 2 * 1.96 * np.sqrt(2 * 0.3 * 0.7 / 500)
    assert width < alone / 3


def test_a_score_that_may_be_nothing_has_no_share():
    truth = np.zeros(20, dtype=np.int64)
    wrong = np.ones(20, dtype=np.int64)
    assert compare_scores(TASK, logits(truth), logits(wrong), examples(truth)).kept is None


def test_lost_and_gained_are_the_rates_of_the_quality(tmp_path):
    generator = np.random.default_rng(2)
    truth, teacher, variant = (generator.integers(0, 3, 60) for _ in range(3))
    table = write_table(
        tmp_path / "t.arrow", [Row(f"text {n}", None, TASK.labels[label]) for n, label in enumerate(truth)]
    )
    rows = changed_answers(TASK, logits(variant), logits(teacher), examples(truth), table)
    quality = TASK.quality(logits(variant), logits(teacher), truth, 15)
    counts = {kind: sum(row["change"] == kind for row in rows) for kind in ("lost", "gained", "other")}
    assert counts["lost"] / 60 == pytest.approx(quality.figures["flip_rate"])
    assert counts["gained"] / 60 == pytest.approx(quality.figures["gain_rate"])
    assert sum(counts.values()) == (teacher != variant).sum() and rows[0]["change"] == "lost"
    for row in rows:
        number = int(row["text"].split()[1])
        assert (row["label"], row["teacher"], row["variant"]) == tuple(
            TASK.labels[values[number]] for values in (truth, teacher, variant)
        )


def test_a_numbers_change_is_half_a_deviation(tmp_path):
    truth = np.zeros(4, dtype=np.float32)
    teacher = np.asarray([[0.0], [0.0], [2.0], [0.1]], dtype=np.float32)
    variant = np.asarray([[0.4], [0.6], [1.0], [-0.1]], dtype=np.float32)
    assert NUMBER.changes(variant, teacher, truth).tolist() == ["", "lost", "gained", ""]
    assert NUMBER.show_answers(variant, truth, [""] * 4) == ["10.8", "11.2", "12", "9.8"]


def test_texts_come_back_from_the_file_as_they_were(tmp_path):
    rows = [
        {"text": 'a "quoted", text\nof two lines', "text_pair": "; =1+1", "label": "Q&A", "teacher": "x", "variant": "y", "change": "lost"},
    ]  # fmt: skip
    write_changes(tmp_path / "c.csv", rows, pair=True)
    assert list(read_changes(tmp_path / "c.csv")) == rows
