"""The parts of the benchmark of parallel training that take a second run here, too."""

import pytest

from benchmarks import parallel


def test_messages_are_those_of_the_formulas():
    rows = dict(parallel.measure("messages", 0, rehearse=True))
    assert rows["tensor 2"] == {"per_block": 4, "bytes_over_formula": 1.0}
    assert rows["data 2"] == {"bytes_over_gradients": 1.0}


def test_a_stage_saves_what_the_simulator_and_the_stage_alone_make_expect():
    rows = dict(parallel.measure("memory", 0, rehearse=True))
    for figures in rows.values():
        assert figures["kib_saved"] == pytest.approx(figures["kib_expected"], rel=0.05)
    # What is recomputed is alive in the backward pass, and autograd's hooks do not see it.
    again = rows["gpipe, recomputed"]
    assert again["kib_saved"] < again["kib_live"] < rows["gpipe"]["kib_live"] / 2


@pytest.mark.parametrize(
    "values, tau, regret",
    [((10, 1, 20, 2, 30, 3), 1.0, 0.0), ((10, 3, 20, 2, 30, 1), -1.0, 2.0), ((10, 1, 30, 2, 20, 3), 1 / 3, 0.0)],
)
def test_the_order_of_layouts(values, tau, regret):
    """Values are measured and predicted in turn."""
    assert parallel._order(values) == pytest.approx(tau) and parallel._regret(values) == pytest.approx(regret)
