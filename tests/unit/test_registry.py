import pytest

from lissom.report.ledger import Ledger, Row
from lissom.tasks.metric import ACCURACY, Metric
from lissom.tracking.config import GatesParams
from lissom.tracking.registry import _beats, failed_gates

PERPLEXITY = Metric(name="perplexity", higher_is_better=False)
GATES = GatesParams(max_score_drop=0.02, min_speedup=10, max_megabytes=5)


def ledger(score=0.89, speedup=12.0, megabytes=4.0, metric=ACCURACY, teacher=0.9) -> Ledger:
    def row(step: str, **figures: float) -> Row:
        return Row.model_construct(step=step, **figures)

    rows = (row("teacher", score=teacher, speedup=2.0, megabytes=90.0),)
    return Ledger.model_construct(
        metric=metric, rows=(*rows, row("quantize", score=score, speedup=speedup, megabytes=megabytes))
    )


def test_gates_that_are_passed_are_silent():
    assert failed_gates(ledger(), GATES) == []
    assert failed_gates(ledger(score=0.95), GATES) == []


def test_every_failed_gate_is_named_with_figure_and_bar():
    failures = failed_gates(ledger(0.87, 9.5, 5.5), GATES)
    assert [failure.split(",")[0] for failure in failures] == [
        "accuracy is worse than the teacher's by 0.0300", "9.50x faster than the teacher", "5.50 MB",
    ]  # fmt: skip
    assert all("gates." in failure for failure in failures)


@pytest.mark.parametrize(
    ("score", "speedup", "megabytes", "wins"),
    [
        (0.89, 12.0, 4.0, False),  # the same
        (0.90, 12.0, 4.0, True),
        (0.89, 13.0, 4.0, True),
        (0.89, 11.0, 3.9, True),
        (0.88, 20.0, 1.0, False),  # less accurate
        (0.89, 11.0, 4.5, False),
    ],
)
def test_a_champion_is_beaten_without_losing_accuracy(score, speedup, megabytes, wins):
    champion = {"lissom.score": "0.890000", "lissom.speedup": "12.000", "lissom.megabytes": "4.000000"}
    better, reason = _beats(champion, ledger(score, speedup, megabytes))
    assert better == wins and reason


def test_gates_and_champions_know_the_direction_of_the_metric():
    worse, better = (ledger(score, metric=PERPLEXITY, teacher=20.0) for score in (21.0, 19.0))
    assert failed_gates(better, GATES) == [] and len(failed_gates(worse, GATES)) == 1
    assert "perplexity is worse than the teacher's by 0.0500" in failed_gates(worse, GATES)[0]
    champion = {"lissom.score": "20.000000", "lissom.speedup": "12.000", "lissom.megabytes": "4.000000"}
    assert _beats(champion, better)[0] and not _beats(champion, worse)[0]
