"""Gates on hidden channels: a closed one is a removed one, and they are chosen with all other units."""

from dataclasses import replace

import pytest
import torch

from lissom.models.channels import channel_axes, root_mean_square_norms
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepBlocks, KeepChannels
from lissom.prune.gate_groups import channels_of, groups_of, open_units, smallest_share
from lissom.prune.gates import Gate, Schedule, expected_share, gates_of
from lissom.prune.plan import plan
from lissom.training.checkpoint import Checkpoints
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import test_translation as translation
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_gates import UNITS, fix
from tests.unit.test_gates import params_of as of_gates
from tests.unit.test_loop import KillAt, Killed, same, weights

ALL = (*UNITS, "channels")
families = pytest.mark.parametrize("family", [*tiny.able("heads"), *translation.FAMILIES])


def params_of(**changes):
    return of_gates(**{"units": ALL, "channel_multiple": 4, **changes})


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def model_of(family):
    model = translation.model_of(family) if family in translation.FAMILIES else tiny.model(family)
    for path in root_mean_square_norms(model.network):  # it is added to the mean over all, or over what is kept
        norm = model.network.get_submodule(path)
        setattr(norm, "eps" if hasattr(norm, "eps") else "variance_epsilon", 1e-12)
    return model


def gated(family, params, seed=0):
    """A model with gates in random states, its recipe and its groups."""
    model = model_of(family)
    groups, recipe = groups_of(model.network, params), plan(model, None, params)
    recipe.calibrate(model)
    torch.manual_seed(seed)
    for gate in gates_of(model.network).values():
        gate.log_alpha.data.normal_()
    return model, recipe, groups


def batch_for(family, model, folder):
    return translation.batch_of(model, folder) if family in translation.FAMILIES else tiny.batch(family)


@families
@pytest.mark.parametrize("units", [("channels",), ALL], ids="+".join)
def test_closed_gates_are_removed_channels(family, units, tmp_path):
    params = params_of(units=units, keep=0.5)
    model, recipe, groups = gated(family, params)
    fix(model, groups, params)
    batch = batch_for(family, model, tmp_path)
    with torch.no_grad():
        expected = logits_of(model.network.eval(), batch)
    edits = recipe.finish(model)
    assert not gates_of(model.network) and any(isinstance(edit, KeepChannels) for edit in edits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.network.modules())
    model.edit(edits)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network.eval(), batch), expected, atol=5e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_what_survives_has_the_same_gradients(family):
    params = params_of(units=("channels",), keep=0.5)
    model, recipe, groups = gated(family, params)
    fix(model, groups, params)
    batch, network = tiny.batch(family), model.network.eval()
    logits_of(network, batch).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    (edit,) = recipe.finish(model)
    axes, index = channel_axes(network), torch.tensor(edit.kept)
    model.edit([edit])
    model.network.zero_grad()
    logits_of(model.network.eval(), batch).square().sum().backward()
    for name, parameter in model.network.named_parameters():
        expected = gradients[name]
        for axis in axes.get(name, ()):
            expected = expected.index_select(axis, index)
        assert torch.allclose(parameter.grad, expected, atol=1e-4, rtol=1e-3), name


def test_open_gates_change_nothing():
    model, whole, batch = tiny.model("bert"), tiny.model("bert"), tiny.batch("bert")
    plan(model, None, params_of()).calibrate(model)
    for gate in gates_of(model.network).values():
        gate.fixed.fill_(1)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network.eval(), batch), logits_of(whole.network, batch), atol=1e-5)


def test_a_forward_pass_has_one_draw():
    """Else a channel would be open in one layer and closed in the next."""
    model, batch = tiny.model("bert"), tiny.batch("bert")
    plan(model, None, params_of(units=("channels",))).calibrate(model)
    gate, seen = gates_of(model.network)[""], []
    norm = model.network.bert.encoder.layer[1].output.LayerNorm
    norm.register_forward_hook(lambda *_: seen.append(gate.drawn().detach()))
    model.network.bert.pooler.register_forward_hook(lambda *_: seen.append(gate.drawn().detach()))
    for _ in range(2):
        logits_of(model.network.train(), batch)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])
    model.network.eval()
    assert torch.equal(gate.drawn(), gate.drawn())


@pytest.mark.parametrize("keep", [0.15, 0.4, 0.7])
def test_the_size_is_within_the_budget(keep):
    params = params_of(keep=keep)
    model, _, groups = gated("bert", params)
    kept = open_units(groups, {path: gate.log_alpha.detach() for path, gate in gates_of(model.network).items()}, params)
    channels = int(kept[channels_of(groups).path].sum())
    assert channels % 4 == 0 and channels >= 4
    total = sum(group.units * group.cost for group in groups)
    blocks = {group.path for group in groups if group.kind == "blocks" and kept.get(group.path, torch.ones(1))[0]}
    size = sum(int(kept[group.path].sum()) * group.cost for group in groups if group.block in blocks) * channels / 32
    assert 0 < size <= keep * total + 1e-6


def test_channels_alone_meet_the_budget():
    params = params_of(units=("channels",), keep=0.4)
    model, _, groups = gated("bert", params)
    kept = open_units(groups, {"": gates_of(model.network)[""].log_alpha.detach()}, params)
    assert kept[""].sum() == 12  # of 32, in fours
    assert smallest_share(groups) == 4 / 32
    gates: dict[str, Gate] = gates_of(model.network)
    share = gates[""].probability().mean()
    assert torch.allclose(expected_share(groups, gates), share)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_trained_model_is_narrower_and_is_saved(family, lesson, tmp_path):
    model, params = tiny.model(family), params_of(keep=0.3)
    teacher, batch = LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    result = compress(model, plan(model, lesson, params), lesson, teacher, params.training)
    channels = result.metrics["kept"]["channels"]
    assert channels["before"] == 32 and channels["after"] == model.network.config.hidden_size
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


def test_a_killed_training_resumes_to_the_same_weights(lesson, tmp_path):
    def run(folder, *hooks):
        own = replace(lesson, checkpoints=Checkpoints(folder, every_seconds=0), hooks=lambda _: hooks)
        model, params = tiny.model("bert"), params_of(keep=0.4, training=SHORT | {"epochs": 3})
        recipe = plan(model, own, params)
        compress(model, recipe, own, LiveTeacher(tiny.model("bert", 1).network), params.training)
        return weights(model.network)

    expected = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", KillAt(20))
    assert same(expected, run(tmp_path / "killed", KillAt(0)))  # step 0 does not come again


def test_a_cut_model_can_have_them():
    """Fewer blocks leave numbers out of the names that channels are found by."""
    model = tiny.model("bert")
    model.edit([KeepBlocks(kept=(1, 3))])
    params = params_of(keep=0.5)
    recipe, groups = plan(model, None, params), groups_of(model.network, params)
    recipe.calibrate(model)
    schedule = Schedule(groups, params)
    schedule.begin(model.network)
    schedule.after_step(9, 10)
    model.edit(recipe.finish(model))
