"""A student that is not good enough is made again with more blocks; one that is good enough is not."""

import pytest

from lissom.distill.logits import attempts
from lissom.distill.offline_config import LogitsDistillation
from lissom.distill.run import distill
from lissom.models.sites import blocks_of
from tests.unit.distill.recipes import FAST


@pytest.mark.parametrize("available", [1, 2, 4, 6, 12, 24])
def test_attempts_grow_to_all_blocks(available):
    tried = list(attempts((0,), available))
    assert tried[0] == (0,) and len(tried[-1]) == available
    assert all(len(set(blocks)) == len(blocks) and max(blocks) < available for blocks in tried)
    assert [len(blocks) for blocks in tried] == sorted({len(blocks) for blocks in tried})


def params(drop, rate=5e-3):
    return LogitsDistillation(
        method="logits", blocks=(0,), start="random", max_dev_drop=drop, training=FAST | {"learning_rate": rate}
    )


def test_a_good_student_is_the_first(material):
    result = distill(params(drop=1.0), material)
    assert list(result.trainings) == ["training"] and result.metrics == {"blocks": [0]}


def test_a_bad_student_gets_more_blocks_up_to_all(material):
    result = distill(params(drop=0.0, rate=1e-9), material)  # learns nothing, with however many blocks
    assert list(result.trainings) == ["training", "training-3-blocks", "training-4-blocks"]
    assert len(blocks_of(result.model.network)) == 4 and result.metrics == {"blocks": [0, 1, 2, 3]}
    steps = [record["step"] for record in result.history]
    assert steps == sorted(steps)
