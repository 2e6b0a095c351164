"""Lottery tickets: what survives starts where it was, what is removed stays away, and every training begins anew."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from lissom.errors import InputError
from lissom.models.directory import save
from lissom.models.edits import KeepBlocks, SparseWeights
from lissom.prune.lottery_ticket import sparsity_after
from lissom.prune.masks import prunable
from lissom.prune.plan import plan
from lissom.prune.sparse_config import LotteryTicketPruning
from lissom.prune.unstructured import apply_masks
from lissom.training.checkpoint import Checkpoints
from lissom.training.compress import compress
from lissom.training.hooks import Hook
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe
from lissom.training.sparsity import KeepZeros
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_loop import KillAt, Killed, same, weights

TEACHER = LiveTeacher(tiny.model("bert", 1).network)


def params_of(**changes):
    return LotteryTicketPruning.model_validate({"method": "lottery_ticket", "training": SHORT, **changes})


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


class Watch(Hook):
    """Keeps the weights with which every training begins, and those after its step `step`."""

    def __init__(self, step=0):
        self.starts, self.later, self._step = [], [], step

    def begin(self, network):
        self._network = network
        self.starts.append(weights(network))

    def after_step(self, step, total):
        if step == self._step:
            self.later.append(weights(self._network))


def run(lesson, params, model=None, watch=None):
    model = tiny.model("bert") if model is None else model
    watch = Watch() if watch is None else watch
    own = replace(lesson, hooks=lambda _: [watch])
    return model, watch, compress(model, plan(model, own, params), own, TEACHER, params.training)


def pruned_weights(state, model):
    return {path: state[f"{path}.weight"] for path in prunable(model.network)}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", ["magnitude", "magnitude_and_gradient"])
def test_survivors_start_where_they_were_and_the_removed_ones_are_nested(criterion, scope, lesson):
    params = params_of(criterion=criterion, scope=scope, rounds=3, sparsity=0.6)
    model, watch, result = run(lesson, params)
    first, *others = watch.starts
    assert len(others) == 3
    removed = {path: torch.zeros_like(weight).bool() for path, weight in pruned_weights(first, model).items()}
    for number, start in enumerate(others, 1):
        total, zeros = 0, 0
        for path, weight in pruned_weights(start, model).items():
            mask = weight == 0
            assert torch.equal(weight[~mask], first[f"{path}.weight"][~mask])
            assert (mask | ~removed[path]).all()
            removed[path] = mask
            total, zeros = total + mask.numel(), zeros + int(mask.sum())
            if scope == "layer":
                assert int(mask.sum()) == math.ceil(sparsity_after(params, number) * mask.numel() - 1e-9)
        if scope == "global":
            assert zeros == math.ceil(sparsity_after(params, number) * total - 1e-9)
        untouched = [name for name in first if name.removesuffix(".weight") not in removed and "remembered" not in name]
        assert all(torch.equal(start[name], first[name]) for name in untouched)
    assert isinstance(model.manifest.edits[-1], SparseWeights) and not hasattr(model.network, "remembered")
    assert all(
        (weight[removed[path]] == 0).all() for path, weight in pruned_weights(weights(model.network), model).items()
    )
    assert result.metrics["steps"] == 4 * 16
    assert [record["step"] for record in result.training.records] == sorted(
        record["step"] for record in result.training.records
    )


def test_the_last_training_is_one_of_its_own(lesson):
    """From the first weights and the final mask, with a new optimiser, schedule and the same order of the data."""
    params = params_of(rounds=2, sparsity=0.5)
    model, watch, _ = run(lesson, params)
    fresh = tiny.model("bert")
    apply_masks(fresh.network, {path: weight != 0 for path, weight in pruned_weights(watch.starts[-1], model).items()})
    compress(fresh, Recipe(hooks=[KeepZeros()]), lesson, TEACHER, params.training)
    assert same(weights(fresh.network), weights(model.network))


def test_weights_go_back_to_an_early_step(lesson):
    params, watch = params_of(rounds=2, sparsity=0.5, rewind_after=0.25), Watch(step=3)
    model, _, _ = run(lesson, params, watch=watch)
    for start in watch.starts[1:]:
        for path, weight in pruned_weights(start, model).items():
            assert torch.equal(weight, watch.later[0][f"{path}.weight"] * (weight != 0))


def test_weights_go_back_to_the_pre_trained_model(lesson, tmp_path):
    base = tiny.model("bert", 7)
    save(base, tmp_path / "base")
    model = tiny.model("bert", 2)
    model.manifest = model.manifest.model_copy(update={"base": f"dir:{tmp_path / 'base'}"})
    model.edit([KeepBlocks(kept=(0, 3))])
    model, watch, _ = run(lesson, params_of(rewind="base"), model)
    base.edit([KeepBlocks(kept=(0, 3))])
    for start in watch.starts[1:]:
        for path, weight in pruned_weights(start, model).items():
            assert torch.equal(weight, base.network.get_submodule(path).weight * (weight != 0))
    other = tiny.model("bert", 2, hidden_size=16)
    other.manifest = model.manifest.model_copy(update={"edits": ()})
    with pytest.raises(InputError, match="do not fit this model"):
        plan(other, lesson, params_of(rewind="base"))


def test_controls_have_the_same_number_of_weights_in_every_layer(lesson):
    starts = {}
    for control in ("none", "random_weights", "random_mask"):
        model, watch, _ = run(lesson, params_of(control=control, rounds=2))
        starts[control] = pruned_weights(watch.starts[-1], model)
    for path, ticket in starts["none"].items():
        mask, drawn, shuffled = ticket == 0, starts["random_weights"][path], starts["random_mask"][path]
        assert torch.equal(drawn == 0, mask) and not torch.equal(drawn, ticket)
        assert int((shuffled == 0).sum()) == int(mask.sum()) and not torch.equal(shuffled == 0, mask)
        assert float(drawn[~mask].std()) == pytest.approx(float(ticket[~mask].std()), rel=0.5)


def test_the_step_to_go_back_to_may_be_after_the_best_epoch(lesson):
    """The weights of the best epoch, which end the first training, remember those of the start."""
    watch = Watch(step=28)  # the 29th of 48 steps, in the second of three epochs
    params = params_of(rounds=1, sparsity=0.5, rewind_after=0.6, training=SHORT | {"epochs": 3, "learning_rate": 1e-6})
    model, watch, result = run(lesson, params, watch=watch)
    scores = [record["dev_score"] for record in result.training.records if "dev_score" in record][:3]
    assert scores[0] == max(scores), "the first epoch is the best one"
    path = f"{prunable(model.network)[0]}.weight"
    start = watch.starts[1][path]
    assert torch.equal(start[start != 0], watch.later[0][path][start != 0])
    assert not torch.equal(start[start != 0], watch.starts[0][path][start != 0])


@pytest.mark.parametrize(("round_number", "step"), [(1, 9), (2, 3), (3, 9)])
def test_a_killed_training_resumes_to_the_same_weights(round_number, step, lesson, tmp_path):
    """Before and after the weights of an early step are remembered."""

    def run(folder, *hooks):
        own = replace(
            lesson,
            checkpoints=Checkpoints(folder, every_seconds=0),
            hooks=lambda phase: hooks if phase.endswith(str(round_number)) else [],
        )
        model, params = tiny.model("bert"), params_of(rounds=2, rewind_after=0.25)
        compress(model, plan(model, own, params), own, TEACHER, params.training)
        return weights(model.network)

    expected = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", KillAt(step))
    assert same(expected, run(tmp_path / "killed", KillAt(0)))  # step 0 does not come again


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValidationError, match="rewind_after is of the first training"):
        params_of(rewind="base", rewind_after=0.1)
    with pytest.raises(ValidationError, match="adapters would fill"):
        params_of(training=SHORT | {"lora": {"rank": 2}})
