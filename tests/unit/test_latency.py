import subprocess

import numpy as np
import pytest

from lissom.evaluate import latency
from lissom.evaluate.conditions import Conditions, Strain
from lissom.evaluate.latency import Timing, measure_latency
from tests.unit.test_conditions import spinning

QUIET = Conditions(rounds=5, discarded=0, foreign_cpus=0.0, disturbed=None)


def loop(steps: int):
    return lambda number: sum(range(steps))


def timing(*rounds, examples=1.0, conditions=QUIET) -> Timing:
    return Timing({"a": [np.asarray(turn, dtype=float) for turn in rounds]}, examples, conditions)


def test_all_runners_see_the_same_texts_in_every_round_and_are_warm():
    calls = []
    runners = {
        name: lambda batch, name=name, steps=steps: (calls.append((name, batch)), sum(range(steps)))
        for name, steps in (("slow", 30_000), ("fast", 1_000))
    }
    outcome = measure_latency(runners, [1] * 7, threads=1, seconds=0.2, retries=0)
    body = calls[4:]  # two calls of each tell how long one takes
    turns: list[tuple[str, list[int]]] = []
    for name, batch in body:
        if not turns or turns[-1][0] != name:
            turns.append((name, []))
        turns[-1][1].append(batch)
    assert [name for name, _ in turns] == ["slow", "fast"] * (len(turns) // 2)
    for (_, slow), (_, fast) in zip(turns[::2], turns[1::2], strict=True):
        assert slow[0] == slow[1] and fast[0] == fast[1]  # the first call is the untimed one
        assert set(slow) == set(fast)
    shapes = {name: {turn.shape for turn in values} for name, values in outcome.seconds.items()}
    assert {columns for _, columns in shapes["slow"]} == {columns for _, columns in shapes["fast"]}
    assert max(rows for rows, _ in shapes["fast"]) > max(rows for rows, _ in shapes["slow"])


def test_disturbed_rounds_are_repeated_and_do_not_count(monkeypatch):
    strains = iter([Strain(0.5, 1, 1, 0, 0, 2)] * 3)
    monkeypatch.setattr(latency, "strain_between", lambda *_: next(strains, Strain(0, 1, 0, 0, 0, 2)))
    monkeypatch.setattr(latency, "reference_seconds", lambda: 1.0)
    outcome = measure_latency({"a": loop(100)}, [1], threads=1, seconds=0.01, retries=1000)
    assert outcome.conditions.disturbed is None and outcome.conditions.discarded == 3
    assert len(outcome.seconds["a"]) == outcome.conditions.rounds >= 5


def test_a_measurement_that_stays_disturbed_says_so(monkeypatch):
    monkeypatch.setattr(latency, "strain_between", lambda *_: Strain(0.5, 1, 1, 0, 0, 2))
    outcome = measure_latency({"a": loop(100)}, [1], threads=1, seconds=0.02, retries=1)
    assert "waited" in outcome.conditions.disturbed and len(outcome.seconds["a"]) == outcome.conditions.rounds >= 5


def ratio_beside(processes: list[subprocess.Popen]) -> Timing:
    try:
        return measure_latency({"slow": loop(80_000), "fast": loop(20_000)}, [1] * 8, threads=1, seconds=0.5, retries=2)
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("others", [1, 3])
def test_beside_busy_processes_the_ratio_holds_or_is_marked(others):
    outcome = ratio_beside([spinning() for _ in range(others)])
    ratio = outcome.ratio("slow", "fast")
    assert outcome.conditions.disturbed is not None or 4 * 0.8 < ratio.value < 4 * 1.25


def test_percentiles_that_the_samples_do_not_support_are_left_out():
    few, some, many = (timing([[0.001] * count]).latency("a") for count in (5, 50, 500))
    assert few.p95 is None and few.p99 is None
    assert some.p95 == pytest.approx(1) and some.p99 is None
    assert many.p99 == pytest.approx(1) and many.p50 == pytest.approx(1)


def test_throughput_counts_the_examples_that_there_are_and_ignores_an_outlier():
    calls = [[[0.01]], [[0.01]], [[0.5]], [[0.01]], [[0.01]]]
    outcome = timing(*calls, examples=20.0).latency("a")
    assert outcome.examples_per_second == pytest.approx(2000)


def test_every_text_of_a_round_has_the_same_weight():
    outcome = timing([[0.001, 0.009], [0.001, 0.009], [0.001, 0.100]])
    assert outcome.by_round("a") == pytest.approx([0.005])  # the outlier of one pass is left out
