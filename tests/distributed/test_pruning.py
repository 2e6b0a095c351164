"""Methods of pruning that look at all weights give in any layout what they give on one process."""

import numpy as np
import pytest

from lissom.prune.config import GatesPruning
from lissom.prune.plan import plan
from lissom.prune.sparse_config import LotteryTicketPruning, MovementPruning, UnstructuredPruning
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.sparsity import zeros_of
from lissom.training.teacher import LiveTeacher
from tests.distributed.processes import spread
from tests.distributed.training import quiet, weights
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

TRAINING = {"training": SHORT}
METHODS = {
    "taylor, in rounds": UnstructuredPruning.model_validate({
        "method": "unstructured", "criterion": "taylor", "schedule": "cubic", "sparsity": 0.7, "rounds": 4, **TRAINING
    }),
    "one shot": UnstructuredPruning.model_validate({"method": "unstructured", "sparsity": 0.7, **TRAINING}),
    "hard movement": MovementPruning.model_validate({"method": "movement", "rewind": "none", "sparsity": 0.7, **TRAINING}),
    "soft movement": MovementPruning.model_validate({"method": "movement", "rewind": "none", "variant": "soft", "penalty": 3, **TRAINING}),
    "a ticket": LotteryTicketPruning.model_validate({
        "method": "lottery_ticket", "sparsity": 0.6, "rounds": 1, "rewind_after": 0.25, "criterion": "magnitude",
        **TRAINING,
    }),
    "gates": GatesPruning.model_validate({"method": "gates", "keep": 0.7, **TRAINING}),
}  # fmt: skip
SPARSITIES = {"taylor, in rounds": 0.7, "one shot": 0.7, "hard movement": 0.7, "a ticket": 0.6}


def prune(world, folder):
    """Every method on a network of its own: the zeros, the sizes and the weights of what it leaves."""
    results = {}
    for name, params in METHODS.items():
        own = folder / f"{name}-{0 if world is None else world.rank}"
        lesson = Lesson(tables=tables_in(own), scratch=own, world=world)
        model, teacher = quiet(tiny.model("bert")), LiveTeacher(tiny.model("bert", 1).network.double())
        compress(model, plan(model, lesson, params), lesson, teacher, params.training)
        results[name] = zeros_of(model.network), weights(model.network)
    return results


@pytest.mark.parametrize(
    "layout",
    [{"pipeline": 2, "microbatches": 2}, {"tensor": 2}, {"data": 2, "shard": True}],
    ids=["stages", "shards of blocks", "pieces"],
)
def test_every_layout_prunes_as_one_process(layout, tmp_path):
    alone = prune(None, tmp_path)
    for name, share in SPARSITIES.items():
        assert alone[name][0] == pytest.approx(share, abs=2e-3), name
    reports = spread(prune, tmp_path, timeout=300, **layout)
    for name, (expected_share, expected) in alone.items():
        (share, state), (other_share, other) = (report[name] for report in reports)
        assert share == other_share and all(np.array_equal(state[key], other[key]) for key in expected), name
        if name == "gates":  # every process draws its own for its part of the texts: others than alone may close
            continue
        assert share == pytest.approx(expected_share, abs=2e-3), name
        different = [np.abs(state[key] - expected[key]).max() > 1e-4 for key in expected]
        assert np.mean(different) < 0.2, name
