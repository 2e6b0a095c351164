"""Schedules against their papers: timelines, lengths, bubbles, memory, and that nothing runs before it can."""

from itertools import pairwise

import pytest

from lissom.errors import InputError
from lissom.parallel.chart import draw_svg, draw_text
from lissom.parallel.schedules import Operation, make_schedule
from lissom.parallel.simulator import Costs, simulate

VARUNA = """
S4 .  .  .  F1 B  B  F2 B  B  F3 B  B  .  .  .  F4 B  B  F5 B  B  .  .  .  .  .  .
S3 .  .  F1 F2 F3 R1 B  B  R2 B  B  R3 B  B  F4 F5 .  R4 B  B  R5 B  B  .  .  .  .
S2 .  F1 F2 F3 F4 F5 .  R1 B  B  R2 B  B  R3 B  B  .  .  .  R4 B  B  R5 B  B  .  .
S1 F1 F2 F3 F4 F5 .  .  .  .  R1 B  B  R2 B  B  R3 B  B  .  .  .  R4 B  B  R5 B  B
"""


def span(name: str, devices: int, microbatches: int, **options) -> float:
    return simulate(make_schedule(name, devices, microbatches, **options)).makespan


def test_varuna_is_the_published_timeline():
    drawn = draw_text(simulate(make_schedule("varuna", 4, 5))).splitlines()
    for own, published in zip(drawn, VARUNA.strip().splitlines(), strict=True):
        plain = [cell[0] if cell.startswith("B") else cell for cell in own.split()]
        assert plain == published.split()


@pytest.mark.parametrize(("devices", "microbatches", "expected"), [(4, 5, 27), (4, 8, 39), (4, 16, 72), (2, 4, 18)])
def test_varuna_takes_as_long_as_published(devices, microbatches, expected):
    assert span("varuna", devices, microbatches) == expected


@pytest.mark.parametrize(
    ("microbatches", "plain", "eager", "late"), [(5, 24, 28, 31), (8, 33, 40, 43), (16, 57, 72, 75)]
)
def test_gpipe_takes_as_long_as_published(microbatches, plain, eager, late):
    assert span("gpipe", 4, microbatches) == plain
    assert span("gpipe", 4, microbatches, recompute=True) == eager
    assert span("gpipe", 4, microbatches, recompute=True, eager=False) == late


@pytest.mark.parametrize(("microbatches", "chunks", "expected"), [(8, 1, 33), (8, 2, 28.5), (16, 4, 50.25)])
def test_interleaving_shortens_as_published(microbatches, chunks, expected):
    timeline = simulate(make_schedule("interleaved_1f1b", 4, microbatches, chunks=chunks))
    assert timeline.makespan == pytest.approx(expected)
    assert timeline.bubble == pytest.approx(3 / (chunks * microbatches + 3))


def test_memory_is_that_of_the_formulas():
    assert simulate(make_schedule("1f1b", 4, 8)).peak_in_flight() == (4, 3, 2, 1)
    assert simulate(make_schedule("interleaved_1f1b", 4, 8, chunks=2)).peak_in_flight() == (11, 9, 7, 5)
    assert simulate(make_schedule("gpipe", 4, 8)).peak_in_flight() == (8, 8, 8, 8)
    assert simulate(make_schedule("varuna", 4, 8)).peak_activations() == (1, 1, 1, 1)


SETTINGS = [
    (name, devices, microbatches, options)
    for devices in (1, 2, 3, 4)
    for microbatches in (1, 2, 3, 8, 12)
    for name, options in (
        ("gpipe", {}),
        ("gpipe", {"recompute": True}),
        ("1f1b", {}),
        ("interleaved_1f1b", {"chunks": 3}),
        ("varuna", {}),
    )
    if name != "interleaved_1f1b" or microbatches % devices == 0
]


@pytest.mark.parametrize(("name", "devices", "microbatches", "options"), SETTINGS)
def test_nothing_runs_before_it_can(name, devices, microbatches, options):
    timeline = simulate(make_schedule(name, devices, microbatches, **options), Costs(1.0, 2.5, 0.75))
    stages = timeline.schedule.stages
    when = {event.operation: event for event in timeline.events}
    assert len(when) == len(timeline.events)
    first, second = ("b", "w") if name == "varuna" else ("B", "B")
    for number in range(1, microbatches + 1):
        for stage in range(stages):
            forward, backward = when[Operation("F", number, stage)], when[Operation(first, number, stage)]
            assert backward.start >= forward.end and when[Operation(second, number, stage)].end >= backward.end
            if stage:
                assert forward.start >= when[Operation("F", number, stage - 1)].end
            if stage + 1 < stages:
                assert backward.start >= when[Operation(first, number, stage + 1)].end
            again = when.get(Operation("R", number, stage))
            if name == "varuna":
                assert (again is None) == (stage == stages - 1)
            if again:
                assert forward.end <= again.start and again.end <= backward.start
    for device in range(devices):
        own = sorted((event.start, event.end) for event in timeline.events if event.device == device)
        assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(own))


def test_one_stage_after_the_other_and_one_alone():
    assert span("gpipe", 4, 1) == 4 * 3  # naive model parallelism: a micro-batch at a time
    assert simulate(make_schedule("1f1b", 1, 6)).bubble == pytest.approx(0)
    assert span("interleaved_1f1b", 4, 8, chunks=1) == span("1f1b", 4, 8) == span("gpipe", 4, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("pipedream", 4, 8), {}, r"allowed: gpipe, 1f1b"),
        (("interleaved_1f1b", 4, 6), {}, r"take 4 or 8"),
        (("gpipe", 0, 6), {}, r"at least 1"),
        (("1f1b", 2, 6), {"recompute": True}, r"gpipe and varuna only"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        make_schedule(*arguments, **options)


def test_the_svg_names_every_operation(tmp_path):
    draw_svg({"simulated": simulate(make_schedule("varuna", 2, 3))}, tmp_path / "chart.svg")
    drawn = (tmp_path / "chart.svg").read_text()
    assert drawn.lstrip().startswith("<?xml") and drawn.count("<!-- F") == 6 and drawn.count("<!-- R") == 3
