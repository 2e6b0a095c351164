"""Gates: a closed one is a removed unit, the size that is asked for is reached, and what is saved is what was trained."""

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from lissom.errors import InputError
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepHeads, KeepNeurons
from lissom.models.sites import blocks_of, sites_of_kind
from lissom.prune.config import GatesPruning
from lissom.prune.gate_groups import groups_of, open_units, smallest_share
from lissom.prune.gates import Constraint, Schedule, expected_share, gates_of
from lissom.prune.plan import plan
from lissom.training.checkpoint import Checkpoints
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in
from tests.unit.test_loop import KillAt, Killed, same, weights
from tests.unit.test_translation import batch_of, model_of

families = pytest.mark.parametrize("family", tiny.able("heads"))
UNITS = ("heads", "neurons", "blocks")


def params_of(**changes):
    return GatesPruning.model_validate(
        {"method": "gates", "neuron_multiple": 8, "training": SHORT | {"epochs": 3}, **changes}
    )


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def gated(family, params, seed=0):
    """A model with gates in random states, its recipe and its groups."""
    model = tiny.model(family, seed)
    recipe = plan(model, None, params)
    recipe.calibrate(model)
    torch.manual_seed(seed)
    for gate in gates_of(model.network).values():
        gate.log_alpha.data.normal_()
    return model, recipe, groups_of(tiny.model(family, seed).network, params)


def fix(model, groups, params):
    schedule = Schedule(groups, params)
    schedule.begin(model.network)
    schedule.after_step(9, 10)


@families
@pytest.mark.parametrize("units", [("heads",), ("neurons",), ("blocks",), UNITS], ids="+".join)
def test_closed_gates_are_removed_units(family, units):
    """The network with gates at 0 and 1 answers as the one without the closed units, and has the same gradients."""
    params = params_of(units=units, keep=0.5)
    model, recipe, groups = gated(family, params)
    fix(model, groups, params)
    batch = tiny.batch(family)
    model.network.eval()
    expected = logits_of(model.network, batch)
    expected.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.network.named_parameters()}
    edits = recipe.finish(model)
    assert not gates_of(model.network) and not hasattr(model.network, "constraint")
    marked = copy.deepcopy(model)  # whose weights are the gradients, so that the edits pick those that survive
    for name, parameter in marked.network.named_parameters():
        parameter.data.copy_(torch.zeros_like(parameter) if gradients[name] is None else gradients[name])
    for each in (model, marked):
        each.edit(edits)
        each.network.eval()
    actual = logits_of(model.network, batch)
    assert edits and torch.allclose(actual, expected, atol=1e-5)
    model.network.zero_grad()
    actual.square().sum().backward()
    for (name, parameter), gradient in zip(model.network.named_parameters(), marked.network.parameters(), strict=True):
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(own, gradient, atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("attention", ["encoder", "decoder", "cross"])
def test_one_kind_of_attention_of_an_encoder_decoder(attention, tmp_path):
    model, params = model_of("bart"), params_of(units=("heads",), keep=0.5, attention=attention)
    recipe, groups = plan(model, None, params), groups_of(model.network, params)
    recipe.calibrate(model)
    torch.manual_seed(0)
    for gate in gates_of(model.network).values():
        gate.log_alpha.data.normal_()
    fix(model, groups, params)
    model.network.eval()
    batch = batch_of(model, tmp_path)
    expected = logits_of(model.network, batch)
    (edit,) = recipe.finish(model)
    of_kind = sites_of_kind(model.network, attention)
    assert {len(kept) for number, kept in enumerate(edit.kept) if number not in of_kind} == {4}
    assert sum(len(edit.kept[number]) for number in of_kind) == 2 * len(of_kind)
    model.edit([edit])
    assert torch.allclose(logits_of(model.network.eval(), batch), expected, atol=1e-5)


@families
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_the_size_is_the_largest_within_the_budget(family, keep):
    params = params_of(keep=keep)
    model, _, groups = gated(family, params)
    kept = open_units(groups, {path: gate.log_alpha.detach() for path, gate in gates_of(model.network).items()}, params)
    total = sum(group.units * group.cost for group in groups)
    blocks = {group.path for group in groups if group.kind == "blocks" and kept.get(group.path, torch.ones(1))[0]}
    inside = [group for group in groups if group.block in blocks]
    size = sum(int(kept[group.path].sum()) * group.cost for group in inside)
    largest = max(group.multiple * group.cost for group in inside)
    assert keep * total - largest < size <= keep * total + 1e-6
    assert all(kept[group.path].sum() >= 1 for group in inside)
    assert all(int(kept[group.path].sum()) % group.multiple == 0 for group in inside)


def test_of_one_site_the_highest_gates_stay():
    params = params_of(units=("heads",), keep=0.5)
    groups = groups_of(tiny.model("bert").network, params)
    values = {group.path: torch.tensor([0.1, 3.0, -1.0, 2.0]) for group in groups if group.is_gated}
    assert all(kept.tolist() == [0, 1, 0, 1] for kept in open_units(groups, values, params).values())
    free = params_of(units=("heads",), keep=None)
    assert all(kept.tolist() == [1, 1, 0, 1] for kept in open_units(groups, values, free).values())
    closed = {path: value - 10 for path, value in values.items()}
    assert all(kept.tolist() == [0, 1, 0, 0] for kept in open_units(groups, closed, free).values())


def test_costs_are_the_parameters_that_go():
    """What the edits remove from a model is what the groups say, biases of output projections aside."""
    model = tiny.model("llama")
    groups = groups_of(model.network, params_of())
    before = model.network.num_parameters()
    heads = [group for group in groups if group.kind == "heads"]
    model.edit([KeepHeads(kept=tuple((0,) for _ in heads))])
    assert before - model.network.num_parameters() == sum((group.units - 1) * group.cost for group in heads)
    middle, neurons = model.network.num_parameters(), [group for group in groups if group.kind == "neurons"]
    model.edit([KeepNeurons(kept=tuple(tuple(range(8)) for _ in neurons))])
    assert middle - model.network.num_parameters() == sum((group.units - 8) * group.cost for group in neurons)


def test_the_expected_share_is_the_mean_over_samples():
    """Probabilities of a block and of what is in it multiply."""
    params = params_of()
    model, _, groups = gated("bert", params)
    gates, total, draws = gates_of(model.network), sum(group.units * group.cost for group in groups), 4000
    model.network.train()
    torch.manual_seed(0)
    share = 0.0
    for _ in range(draws):
        is_open = {path: gate() > 0 for path, gate in gates.items()}
        share += sum(
            int(is_open[group.path].sum()) * group.cost * int(is_open[group.block]) for group in groups if group.cost
        )
    assert share / draws / total == pytest.approx(float(expected_share(groups, gates).detach()), rel=0.03)


def test_multipliers_rise_while_the_share_is_above_its_target():
    constraint = Constraint()
    constraint.target, share = 0.5, torch.tensor(0.8, requires_grad=True)
    constraint.multipliers.data = torch.tensor([2.0, 3.0])
    penalty = constraint(share)
    assert float(penalty.detach()) == pytest.approx(2 * 0.3 + 3 * 0.09)
    penalty.backward()
    assert float(share.grad) == pytest.approx(2 + 2 * 3 * 0.3)
    assert torch.allclose(constraint.multipliers.grad, torch.tensor([-0.3, -0.09]))  # descent raises them


def test_gates_are_noisy_in_training_alone():
    model, _, _ = gated("bert", params_of())
    gate = next(iter(gates_of(model.network).values()))
    model.network.train()
    assert not torch.equal(gate(), gate())
    model.network.eval()
    assert torch.equal(gate(), gate())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_a_trained_model_has_the_size_that_was_asked_for_and_is_saved(family, lesson, tmp_path):
    model, params = tiny.model(family), params_of(keep=0.4)
    teacher, batch = LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    groups = groups_of(model.network, params)
    total = sum(group.units * group.cost for group in groups)
    recipe = plan(model, lesson, params)
    result = compress(model, recipe, lesson, teacher, params.training)
    left = groups_of(model.network, params)
    size = sum(group.units * group.cost for group in left)
    assert size <= 0.4 * total + 1e-6 and size > 0.2 * total
    assert result.metrics["kept"]["blocks"] == {"before": 4, "after": len(blocks_of(model.network))}
    assert result.metrics["kept"]["heads"]["after"] == sum(group.units for group in left if group.kind == "heads")
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


@pytest.mark.parametrize(("penalty", "rate", "closes"), [(0.0, 0.05, False), (100.0, 0.5, True)])
def test_a_penalty_closes_gates_and_none_leaves_them_open(penalty, rate, closes, lesson):
    model = tiny.model("bert")
    params = params_of(units=("heads",), keep=None, penalty=penalty, gate_learning_rate=rate)
    recipe = plan(model, lesson, params)
    compress(model, recipe, lesson, LiveTeacher(tiny.model("bert", 1).network), params.training)
    heads = recipe.facts["kept"]["heads"]
    assert heads == {"before": 16, "after": 4 if closes else 16}  # one per site stays
    assert any(isinstance(edit, KeepHeads) for edit in model.manifest.edits) == closes


def test_the_target_falls_and_gates_are_fixed_before_the_end():
    params = params_of(keep=0.2, warmup=0.4, cooldown=0.3)
    model, _, groups = gated("bert", params)
    schedule, gates = Schedule(groups, params), gates_of(model.network)
    schedule.begin(model.network)
    constraint = next(module for module in model.network.modules() if isinstance(module, Constraint))
    targets = []
    for step in range(10):
        schedule.before_step(step, 10)
        targets.append(constraint.target)
        assert all(bool((gate.fixed < 0).all()) == (step < 7) for gate in gates.values())
        schedule.after_step(step, 10)
    assert targets == pytest.approx([1, 0.8, 0.6, 0.4] + [0.2] * 6)
    fixed = {path: gate.fixed.clone() for path, gate in gates.items()}
    for gate in gates.values():
        gate.log_alpha.data.normal_()
    schedule.after_step(9, 10)
    assert all(torch.equal(gate.fixed, fixed[path]) for path, gate in gates.items())


@pytest.mark.parametrize("step", [3, 35])
def test_a_killed_training_resumes_to_the_same_weights(step, lesson, tmp_path):
    """Before and after the gates are fixed, in step 28 of 48."""

    def run(folder, *hooks):
        own = replace(lesson, checkpoints=Checkpoints(folder, every_seconds=0), hooks=lambda _: hooks)
        model, params = tiny.model("bert"), params_of(keep=0.4)
        recipe = plan(model, own, params)
        compress(model, recipe, own, LiveTeacher(tiny.model("bert", 1).network), params.training)
        return weights(model.network)

    expected = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", KillAt(step))
    assert same(expected, run(tmp_path / "killed", KillAt(0)))  # step 0 does not come again


def test_what_cannot_be_done_is_refused_before_it_is_tried():
    with pytest.raises(ValidationError, match="earlier weights are less sparse"):
        params_of(training=SHORT | {"keep": "best"})
    with pytest.raises(ValidationError, match="must be below 1"):
        params_of(warmup=0.6, cooldown=0.5)
    with pytest.raises(ValidationError, match="at most once"):
        params_of(units=("heads", "heads"))
    with pytest.raises(InputError, match="cannot be reached; the least here is"):
        plan(tiny.model("bert"), None, params_of(keep=0.01))
    with pytest.raises(InputError, match="has no such attention"):
        plan(tiny.model("bert"), None, params_of(units=("heads",), attention="cross"))


@pytest.mark.parametrize("units", [("heads",), ("blocks",), UNITS])
def test_the_least_share_is_what_is_left_if_all_can_go(units):
    params = params_of(units=units, keep=0.9)
    model, _, groups = gated("bert", params)
    closed = {path: torch.full_like(gate.log_alpha, -5) for path, gate in gates_of(model.network).items()}
    kept = open_units(groups, closed, params_of(units=units, keep=None))
    blocks = {group.path for group in groups if group.kind == "blocks" and kept.get(group.path, torch.ones(1))[0]}
    size = sum(
        (int(kept[group.path].sum()) if group.is_gated else group.units) * group.cost
        for group in groups
        if group.block in blocks
    )
    assert smallest_share(groups) == size / sum(group.units * group.cost for group in groups)
