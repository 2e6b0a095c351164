"""Directions: everything that compares two scores asks the metric, and nobody else knows what is better."""

import pytest

from lissom.pipelines.comparison import table
from lissom.pipelines.retrain import _against_base
from lissom.tasks.metric import ACCURACY, Metric

PERPLEXITY = Metric(name="perplexity", higher_is_better=False)


@pytest.mark.parametrize(("metric", "better", "worse"), [(ACCURACY, 0.9, 0.8), (PERPLEXITY, 20.0, 25.0)])
def test_better_is_better_in_every_word(metric, better, worse):
    assert metric.improves(better, worse) and not metric.improves(worse, better) and not metric.improves(worse, worse)
    assert metric.best(worse, better, worse) == better
    assert metric.drop(better, worse) > 0 > metric.drop(worse, better) and metric.drop(better, better) == 0
    assert metric.kept(better, worse) < 1 < metric.kept(worse, better) and metric.kept(better, better) == 1
    assert metric.drop(better, metric.worst_allowed(better, 0.07)) == pytest.approx(0.07)


def test_points_for_shares_and_relative_for_what_has_no_scale():
    assert ACCURACY.drop(0.90, 0.87) == pytest.approx(0.03)
    assert PERPLEXITY.drop(20.0, 21.0) == pytest.approx(0.05)
    assert ACCURACY.show(0.876) == "87.6%" and ACCURACY.show_change(0.9, 0.876) == "-2.4"
    assert PERPLEXITY.show(20.5) == "20.500"


def test_a_drop_is_told_as_the_change_of_the_value():
    """Minus is less: of an accuracy worse, of a perplexity better."""
    assert ACCURACY.show_drop(0.012) == "-1.2" and ACCURACY.show_drop(-0.012) == "+1.2"
    assert PERPLEXITY.show_drop(0.30) == "+30.0%" and PERPLEXITY.show_drop(-0.531) == "-53.1%"
    assert ACCURACY.show_drops(-0.01, 0.03) == "-3.0 to +1.0"
    assert PERPLEXITY.show_drops(0.05, 0.15) == "+5.0% to +15.0%"


def figures(metric, value):
    return {metric.name: value, "metric": metric.model_dump(), "megabytes": 1.0}


def test_retraining_is_refused_by_the_direction_of_the_metric():
    before = figures(PERPLEXITY, 20.0)
    assert _against_base(before, figures(PERPLEXITY, 15.0), "main", 0.02) == []
    (failure,) = _against_base(before, figures(PERPLEXITY, 21.0), "main", 0.02)
    assert "perplexity is worse than that of main by 0.0500" in failure
    assert _against_base(figures(ACCURACY, 0.9), figures(ACCURACY, 0.95), "main", 0.02) == []
    assert len(_against_base(figures(ACCURACY, 0.9), figures(ACCURACY, 0.85), "main", 0.02)) == 1
    assert "| perplexity | 20.0000 | 15.0000 | -5.000 |" in table(before, figures(PERPLEXITY, 15.0), "main")
    measured = {**before, "energy_method": "measured"}
    assert "| Wh to compress (measured, then model) |" in table(measured, {**before, "energy_method": "model"}, "main")
    busy = {**figures(PERPLEXITY, 15.0), "disturbed": "threads waited"}
    assert "disturbed the measuring of time or energy (now)" in table(before, busy, "main")
    assert "disturbed" not in table(before, figures(PERPLEXITY, 15.0), "main")
