"""Parts of a batch: everybody once, and weights with which means add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.parallel.parts import split_batch
from tests.unit.test_loop import examples

DATA = examples(30)


@given(st.integers(1, 30), st.integers(1, 8))
def test_every_example_is_in_one_part_and_weights_add_up(size, count):
    members = np.random.default_rng(size).permutation(30)[:size]
    parts = split_batch(DATA, members, 0, count, range(count))
    counted = [int(index) for part in parts if part.weight for index in part.batch.indices]
    assert sorted(counted) == sorted(members)
    assert len(parts) == count and sum(part.weight for part in parts) == pytest.approx(1)
    sizes = [len(part.batch.indices) for part in parts if part.weight]
    assert max(sizes) - min(sizes) <= 1
    lengths = DATA.lengths[members]
    shares = [part.weight * part.batch.share.tokens for part in parts if part.weight]
    assert sum(shares) == pytest.approx(1)
    pairs = [part.weight * part.batch.share.pairs for part in parts if part.weight]
    assert sum(pairs) == pytest.approx(1)
    for part, share in zip([part for part in parts if part.weight], shares, strict=True):
        assert share == pytest.approx(float(part.batch.mask.sum()) / lengths.sum())


def test_a_batch_in_one_part_is_left_alone():
    (part,) = split_batch(DATA, np.arange(8), 0, 1, [0])
    assert part.weight == part.batch.share.tokens == part.batch.share.pairs == 1.0


def test_sequences_are_padded_to_a_multiple():
    (part,) = split_batch(DATA, np.arange(8), 0, 1, [0], multiple=4)
    assert part.batch.ids.shape[1] % 4 == 0
