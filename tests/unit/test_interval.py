import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.interval import Interval, bootstrap, interval_of, ratio_of_medians, resamples


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_an_interval_holds_its_value_and_stays_among_the_samples(samples):
    values = np.asarray(samples)
    interval = interval_of(float(np.median(values)), (float(np.median(values[i])) for i in resamples(len(values), 50)))
    assert values.min() <= interval.low <= interval.value <= interval.high <= values.max()


def test_the_same_samples_have_the_same_interval():
    assert ratio_of_medians([3, 4, 5, 6], [1, 1, 2, 2]) == ratio_of_medians([3, 4, 5, 6], [1, 1, 2, 2])


def test_an_interval_of_means_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = bootstrap(lambda indices: float(values[indices].mean()), len(values))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_true_ratios_lie_inside_as_often_as_an_interval_promises():
    generator, inside = np.random.default_rng(1), 0
    for _ in range(100):
        # What slows a round slows both sides of it, as on a shared machine.
        round_load = generator.lognormal(0, 0.5, 20)
        slow = 8 * round_load * generator.lognormal(0, 0.1, 20)
        fast = 2 * round_load * generator.lognormal(0, 0.1, 20)
        interval = ratio_of_medians(slow, fast)
        inside += not interval.excludes(4)
    assert inside >= 85


def test_what_both_sides_of_a_round_share_cancels():
    generator = np.random.default_rng(2)
    load = generator.lognormal(0, 1.0, 40)
    paired = ratio_of_medians(4 * load, load)
    unpaired = ratio_of_medians(4 * load, generator.permutation(load))
    assert paired == Interval(value=4, low=4, high=4) and unpaired.high - unpaired.low > 1
