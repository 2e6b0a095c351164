"""The report's first line names the step that lost the missing score, and only if something is missing."""

import pytest

from lissom.evaluate.figures import Floor
from lissom.interval import Interval
from lissom.report.advice import advice
from lissom.report.ledger import Headline, Ledger, Row
from lissom.tasks.metric import ACCURACY, Metric

PERPLEXITY = Metric(name="perplexity", higher_is_better=False)


def ledger(scores: dict[str, float], width: float = 0.01, metric=ACCURACY, floor: float | None = None) -> Ledger:
    rows = tuple(Row.model_construct(step=step, score=score) for step, score in scores.items())
    drop = metric.drop(rows[0].score, rows[-1].score)
    floors = () if floor is None else (Floor.model_construct(model="TF-IDF", score=floor, dev_score=floor),)
    headline = Headline.model_construct(drop=Interval(value=drop, low=drop - width, high=drop + width))
    return Ledger.model_construct(metric=metric, rows=rows, headline=headline, floors=floors)


@pytest.mark.parametrize(
    ("scores", "worst", "change"),
    [
        ({"teacher": 0.9, "distill": 0.8, "prune": 0.79, "quantize": 0.79}, "distill", "distill.blocks"),
        ({"teacher": 0.9, "distill": 0.89, "prune": 0.8, "quantize": 0.79}, "prune", "prune.heads"),
        ({"teacher": 0.9, "factorize": 0.7, "quantize": 0.79}, "factorize", "factorize.rank"),
        ({"teacher": 0.9, "quantize": 0.8}, "quantize", "quantize.training.epochs"),
    ],
)
def test_the_step_that_lost_most_is_named(scores, worst, change):
    line = advice(ledger(scores))
    assert f"most was lost by {worst}" in line and change in line


def test_what_chance_explains_is_not_advised_about():
    assert advice(ledger({"teacher": 0.9, "quantize": 0.895})) is None
    assert advice(ledger({"teacher": 0.9, "quantize": 0.93})) is None


def test_it_knows_the_direction_of_the_metric():
    assert "lost by prune" in advice(ledger({"teacher": 20.0, "prune": 30.0, "quantize": 29.0}, metric=PERPLEXITY))
    assert advice(ledger({"teacher": 20.0, "quantize": 15.0}, metric=PERPLEXITY)) is None


def test_a_teacher_that_has_learnt_nothing_comes_first():
    line = advice(ledger({"teacher": 0.7, "distill": 0.5, "quantize": 0.5}, floor=0.75))
    assert "no better than TF-IDF (75.0%)" in line and "teacher.epochs" in line
