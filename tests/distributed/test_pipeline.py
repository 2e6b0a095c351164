"""Pipelines: what ran is a schedule that holds, recomputation changes nothing, stages are cut evenly."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import InputError
from lissom.models.edits import KeepHeads, KeepNeurons
from lissom.parallel.engine import make_engine
from lissom.parallel.schedules import make_schedule
from lissom.parallel.stages import balanced, split_blocks, stage_of
from tests.distributed.processes import spread
from tests.distributed.training import DATA, PARAMS, train
from tests.unit import tiny


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=7), st.integers(1, 4))
def test_stretches_are_as_even_as_can_be(costs, count):
    if count > len(costs):
        with pytest.raises(InputError, match=f"{len(costs)} blocks cannot be cut into {count} stages"):
            balanced(costs, count)
        return
    actual = balanced(costs, count)
    assert [block for stretch in actual for block in stretch] == list(range(len(costs))) and all(actual)

    def dearest(rest, left):
        """By trying all cuts."""
        if left == 1:
            return sum(rest)
        return min(max(sum(rest[:cut]), dearest(rest[cut:], left - 1)) for cut in range(1, len(rest) - left + 2))

    assert max(sum(costs[block] for block in stretch) for stretch in actual) == pytest.approx(dearest(costs, count))


def test_pruned_blocks_weigh_less():
    model = tiny.model("bert")
    assert [len(stretch) for stretch in split_blocks(model.network, 2)[0]] == [2, 2]
    few = tuple(range(2))
    model.edit([KeepHeads(kept=((0,), (0,), (0,), (0, 1, 2, 3))), KeepNeurons(kept=(few, few, few, tuple(range(48))))])
    assert [len(stretch) for stretch in split_blocks(model.network, 2)[0]] == [3, 1]


@pytest.mark.parametrize("family", tiny.able("pipeline"))
def test_every_parameter_has_its_stage(family):
    network = tiny.model(family).network
    cuts = split_blocks(network, 4)
    stages = {name: stage_of(name, network, cuts) for name, _ in network.named_parameters()}
    assert set(stages.values()) == {0, 1, 2, 3}
    assert all(stage == 0 for name, stage in stages.items() if "embed" in name)
    assert all(stage == 3 for name, stage in stages.items() if "classifier" in name or name.startswith("score"))


def traced(world):
    """One step; return what ran where, in order, and how it was cut."""
    network = tiny.model("bert").network
    engine = make_engine(network, tiny.LOSS, DATA, 0, None, world, needs_internals=False)
    engine.gradients(np.arange(8))
    engine.trace.events.clear()
    engine.gradients(np.arange(8))
    return engine.trace.events


@pytest.mark.parametrize(
    "layout",
    [
        {"pipeline": 4, "microbatches": 5, "schedule": "varuna"},
        {"pipeline": 2, "microbatches": 4, "schedule": "interleaved_1f1b"},
        {"pipeline": 3, "microbatches": 4, "schedule": "1f1b"},
        {"pipeline": 2, "microbatches": 3, "schedule": "gpipe"},
    ],
    ids=str,
)
def test_what_runs_is_the_schedule(layout):
    """Each device's order is the simulator's, but for GPipe, whose backward passes torch runs first in, first out."""
    actual = spread(traced, **layout)
    expected = make_schedule(layout["schedule"], layout["pipeline"], layout["microbatches"])
    for device, events in enumerate(actual):
        ran = [event.operation for event in events]
        if layout["schedule"] == "gpipe":
            assert sorted(map(str, ran)) == sorted(map(str, expected.devices[device]))
        else:
            assert ran == list(expected.devices[device])
    ends = {event.operation: event.end for events in actual for event in events}
    starts = {event.operation: event.start for events in actual for event in events}
    for operation, start in starts.items():
        if operation.kind == "F" and operation.stage:
            before = next(
                item
                for item in ends
                if item.kind == "F" and (item.microbatch, item.stage) == (operation.microbatch, operation.stage - 1)
            )
            assert ends[before] <= start
    counts = Counter(operation.kind for operation in starts)
    if layout["schedule"] == "varuna":  # the last stage never recomputes
        assert counts == {"F": 20, "b": 20, "w": 20, "R": 15}


def noisy(model):
    return model


@pytest.mark.parametrize(
    ("plain", "recomputed"),
    [
        ({"pipeline": 2, "microbatches": 4, "schedule": "1f1b"}, {"recompute": True}),
        ({"pipeline": 2, "microbatches": 4, "schedule": "1f1b"}, {"schedule": "varuna"}),
        ({"data": 2}, {"recompute": True}),
        ({"tensor": 2}, {"recompute": True}),
    ],
    ids=["1f1b", "varuna", "replicas", "tensor"],
)
def test_recomputed_activations_are_the_same_dropout_included(plain, recomputed):
    expected, actual = (
        spread(train, "bert", (), None, PARAMS, noisy, **layout) for layout in (plain, {**plain, **recomputed})
    )
    for (state, _), (own, _) in zip(expected, actual, strict=True):
        for name in state:
            np.testing.assert_allclose(own[name], state[name], atol=1e-6, err_msg=name)


def held(world):
    """The largest number of bytes that autograd keeps for the backward pass, on this process."""
    network = tiny.model("bert").network
    engine = make_engine(network, tiny.LOSS, DATA, 0, None, world, needs_internals=False)
    engine.gradients(np.arange(24))
    now, most, parameters = [0], [0], {parameter.data_ptr() for parameter in network.parameters()}

    class Kept:
        def __init__(self, tensor):
            self.tensor, self.size = tensor, 0 if tensor.data_ptr() in parameters else tensor.nbytes
            now[0] += self.size
            most[0] = max(most[0], now[0])

        def __del__(self):
            now[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        engine.gradients(np.arange(24))
    return most[0]


def test_less_is_held_where_less_is_in_flight():
    """GPipe holds all micro-batches, 1F1B as many as stages are ahead, recomputation little more than one."""
    layout = {"pipeline": 2, "microbatches": 8}
    gpipe, one_f_one_b, recomputed, varuna = (
        spread(held, **layout, **more)
        for more in ({"schedule": "gpipe"}, {}, {"schedule": "gpipe", "recompute": True}, {"schedule": "varuna"})
    )
    assert one_f_one_b[0] == pytest.approx(gpipe[0] * 2 / 8, rel=0.1)
    assert one_f_one_b[1] == pytest.approx(gpipe[1] / 8, rel=0.15)
    assert recomputed[0] < 0.5 * gpipe[0]
    assert varuna[0] < 1.2 * gpipe[0] / 8
