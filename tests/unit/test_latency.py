import subprocess
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest

from lissom.evaluate import latency, reference_loop
from lissom.evaluate.conditions import Conditions, Strain
from lissom.evaluate.latency import Timing, measure_latency
from tests.unit.test_conditions import spinning

QUIET = Conditions(rounds=5, discarded=0, foreign_cpus=0.0, disturbed=None)


def loop(steps: int):
    return lambda number: sum(range(steps))


def timing(*rounds, examples=1.0, conditions=QUIET) -> Timing:
    turns = [np.asarray(turn, dtype=float) for turn in rounds]
    return Timing({"a": turns}, [list(range(turn.shape[1])) for turn in turns], examples, conditions)


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
    known: set[int] = set()
    for (_, slow), (_, fast) in zip(turns[::2], turns[1::2], strict=True):
        batches = list(dict.fromkeys(slow))
        assert batches == list(dict.fromkeys(fast))
        untimed = [batch for batch in batches if batch not in known] or batches[:1]
        for turn in (slow, fast):  # no input is timed when it comes for the first time
            assert turn[: len(untimed)] == untimed and len(turn) % len(batches) == len(untimed) % len(batches)
        known.update(batches)
    shapes = {name: {turn.shape for turn in values} for name, values in outcome.seconds.items()}
    assert {columns for _, columns in shapes["slow"]} == {columns for _, columns in shapes["fast"]}
    assert max(rows for rows, _ in shapes["fast"]) > max(rows for rows, _ in shapes["slow"])


def test_disturbed_rounds_are_repeated_and_do_not_count(monkeypatch):
    strains = iter([Strain(0.5, 1, 1, 0, 0, 2)] * 3)
    monkeypatch.setattr(latency, "strain_between", lambda *_: next(strains, Strain(0, 1, 0, 0, 0, 2)))
    monkeypatch.setattr(reference_loop, "reference_seconds", lambda: 1.0)
    outcome = measure_latency({"a": loop(100)}, [1], threads=1, seconds=0.01, retries=1000)
    assert outcome.conditions.disturbed is None and outcome.conditions.discarded == 3
    assert len(outcome.seconds["a"]) == outcome.conditions.rounds >= 5


@pytest.mark.parametrize("threads", [1, 2])
def test_rounds_that_are_slow_throughout_do_not_count(threads, monkeypatch):
    # As if others had taken half of a core in the first three rounds, with two readings each.
    times = iter([2.0] * 6)
    monkeypatch.setattr(latency, "strain_between", lambda *_: Strain(0, 1, 0, 0, 0, 2))
    monkeypatch.setattr(latency, "reference_loop", lambda _: nullcontext(lambda: next(times, 1.0)))
    outcome = measure_latency({"a": loop(100)}, [1] * 9, threads=threads, seconds=0.01, retries=1000)
    assert outcome.conditions.disturbed is None and outcome.conditions.discarded == 3


def test_the_reference_on_several_threads_runs_on_all_at_once(monkeypatch):
    meeting, seen = threading.Barrier(2), set()

    def meet(_):
        meeting.wait(timeout=30)  # two threads are here at a time, or this fails
        seen.add(threading.get_ident())

    monkeypatch.setattr(reference_loop.hashlib, "sha256", meet)
    with reference_loop.reference_loop(2) as seconds:
        assert seconds() > 0 and len(seen) == 2


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


def test_a_slow_runner_gets_time_for_enough_texts_within_bounds(monkeypatch):
    monkeypatch.setattr(latency, "strain_between", lambda *_: Strain(0, 1, 0, 0, 0, 2))
    monkeypatch.setattr(reference_loop, "reference_seconds", lambda: 1.0)

    def texts(count, examples=1, retries=8):
        runners = {"a": lambda number: time.sleep(0.02)}
        timed = measure_latency(runners, [examples] * count, threads=1, seconds=0.3, retries=retries)
        return len({number for numbers in timed.batches for number in numbers})

    assert texts(40) >= 20  # 0.3 seconds are enough for seven
    assert texts(12) == 12
    assert texts(40, examples=8) >= 20  # a percentile is one of batches
    assert texts(40, retries=0) < 12


def test_times_are_kept_by_text_whatever_round_they_are_of():
    rounds = [np.asarray([[0.002, 0.004]]), np.asarray([[0.006, 0.008]]), np.asarray([[0.004, 0.001]])]
    timed = Timing({"a": rounds}, [[0, 1], [3, 0], [1, 40]], 1.0, QUIET)
    assert timed.latency("a").by_batch[:4] == pytest.approx((5.0, 4.0, None, 6.0))
    assert len(timed.latency("a").by_batch) == 32  # and not 41


def test_passes_over_a_text_are_no_samples_of_other_texts():
    fast = timing(*[[[0.001]] * 200] * 9).latency("a")
    assert fast.samples == 9 and fast.p95 is None


def test_percentiles_that_the_samples_do_not_support_are_left_out():
    few, some, many = (timing([[0.001] * count]).latency("a") for count in (5, 50, 500))
    assert few.p95 is None and few.p99 is None and not few.deciles
    assert some.p95 == pytest.approx(1) and some.p99 is None
    assert many.p99 == pytest.approx(1) and many.p50 == pytest.approx(1)


def test_throughput_counts_the_examples_that_there_are_and_ignores_an_outlier():
    calls = [[[0.01]], [[0.01]], [[0.5]], [[0.01]], [[0.01]]]
    outcome = timing(*calls, examples=20.0).latency("a")
    assert outcome.examples_per_second == pytest.approx(2000)


def test_every_text_of_a_round_has_the_same_weight():
    outcome = timing([[0.001, 0.009], [0.001, 0.009], [0.001, 0.100]])
    assert outcome.by_round("a") == pytest.approx([0.005])  # the outlier of one pass is left out
