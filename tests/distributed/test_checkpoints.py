"""A training goes on where it stopped, in the same layout or in another one."""

import pytest

from lissom.training.checkpoint import Checkpoints
from tests.distributed.processes import spread
from tests.distributed.training import compare, train
from tests.unit import tiny
from tests.unit.test_loop import KillAt, Killed

PLACES = [{"data": 2, "tensor": 2}, {}, {"pipeline": 2, "microbatches": 2, "data": 2}, {"data": 2, "shard": True}]


def until(world, folder, step, prepare=None):
    """Train up to a step, where all processes end; or to the end."""
    checkpoints = Checkpoints(folder, every_seconds=0, writes=world is None or world.is_main)
    more = {} if prepare is None else {"prepare": prepare}
    try:
        return train(world, checkpoints=checkpoints, hooks=[KillAt(step)], **more)
    except Killed:
        return None


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_a_checkpoint_is_taken_up_in_other_layouts(first, tmp_path):
    """2 x 2, then 1, then 4, ...: the result is that of a training that was left alone."""
    layouts = PLACES[first:] + PLACES[:first]
    for layout, step in zip(layouts, (2, 4, 6, -1), strict=True):
        actual = (
            spread(until, tmp_path / "checkpoint", step, **layout)
            if layout
            else [until(None, tmp_path / "checkpoint", step)]
        )
    compare(actual, train(None))


def noisy(model):
    return model


@pytest.mark.parametrize(
    "layout",
    [{"data": 2}, {"tensor": 2}, {"pipeline": 2, "microbatches": 2, "schedule": "varuna"}],
    ids=str,
)
def test_masks_follow_from_the_step(layout, tmp_path):
    """With dropout, in the same layout: the same weights to the last bit."""
    expected = spread(until, tmp_path / "left alone", -1, noisy, **layout)
    assert spread(until, tmp_path / "killed", 3, noisy, **layout) == [None, None]
    actual = spread(until, tmp_path / "killed", 0, noisy, **layout)  # step 0 does not come again
    for (state, records), (own, report) in zip(expected, actual, strict=True):
        assert all((state[name] == own[name]).all() for name in state)
        assert [sorted(item) for item in report] == [sorted(item) for item in records]
        assert [item["loss"] for item in report if "loss" in item] == pytest.approx(
            [item["loss"] for item in records if "loss" in item]
        )


def test_the_checkpoint_names_whole_tensors(tmp_path):
    from safetensors.torch import load_file

    spread(until, tmp_path / "checkpoint", 2, data=1, tensor=2, pipeline=2, microbatches=2)
    tensors = load_file(tmp_path / "checkpoint" / "state.safetensors")
    network = tiny.model("bert").network
    for name, parameter in network.named_parameters():
        assert tensors[f"network/{name}"].shape == parameter.shape
        if not name.startswith("bert.pooler") or f"optimizer/{name}/exp_avg" in tensors:
            assert tensors[f"optimizer/{name}/exp_avg"].shape == parameter.shape
            assert tensors[f"optimizer/{name}/exp_avg"].abs().sum() > 0 or "key.bias" in name
