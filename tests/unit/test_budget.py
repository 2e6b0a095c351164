"""Budgets: as much stays as a share of the parameters or operations allows, and no more."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from lissom.attention.config import FixedRadius
from lissom.errors import InputError
from lissom.evaluate.relative_latency import relative_latency
from lissom.models.edits import KeepBlocks, UseAttention
from lissom.models.families import family_of
from lissom.models.flops import flops_by_depth
from lissom.models.sites import blocks_at, blocks_of
from lissom.prune.config import BlocksPruning, FirstOrderPruning, LayerDropPruning
from lissom.prune.plan import plan
from lissom.training.lesson import Lesson
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in
from tests.unit.test_translation import model_of, tables_of


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def first_order(**changes):
    return FirstOrderPruning.model_validate({"method": "first_order", "neuron_multiple": 8, **changes})


def cost(model, of):
    if of == "parameters":
        return model.network.num_parameters()
    length = model.manifest.task.max_length
    return flops_by_depth(model.network, [length])[length][-1]


@pytest.mark.parametrize("of", ["parameters", "flops"])
@pytest.mark.parametrize("family", tiny.able("heads"))
def test_heads_and_neurons_are_as_many_as_the_budget_allows(family, of, lesson):
    model = tiny.model(family)
    whole, states = cost(model, of), {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    recipe = plan(model, lesson, first_order(budget={"of": of, "keep": 0.75}))
    assert all((tensor == states[name]).all() for name, tensor in model.network.state_dict().items())
    model.edit(recipe.edits)
    heads, neurons = recipe.edits
    kept = sum(map(len, heads.kept)) / (4 * tiny.units(tiny.model(family).network))
    assert 0.4 * whole < cost(model, of) <= 0.75 * whole
    assert sum(map(len, neurons.kept)) / (4 * 48) == pytest.approx(kept, abs=0.2)  # one share of both


def test_what_is_to_stay_whole_does(lesson):
    (edit,) = plan(tiny.model("bert"), lesson, first_order(heads=1, budget={"keep": 0.8})).edits
    assert edit.kind == "keep_neurons"


def test_rounds_end_at_the_budget(lesson):
    sizes = []
    for rounds in (1, 3):
        model = tiny.model("bert")
        model.edit(plan(model, lesson, first_order(rounds=rounds, budget={"keep": 0.7})).edits)
        sizes.append(model.network.num_parameters())
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("of", "keep"), [("parameters", 0.8), ("flops", 0.55)])
def test_blocks_are_as_many_as_the_budget_allows(of, keep, lesson):
    model = tiny.model("bert")
    whole = cost(model, of)
    model.edit(plan(model, lesson, BlocksPruning(method="blocks", budget={"of": of, "keep": keep})).edits)
    left = len(blocks_of(model.network))
    assert 1 <= left < 4 and cost(model, of) <= keep * whole
    larger = tiny.model("bert")
    larger.edit(plan(larger, lesson, BlocksPruning(method="blocks", blocks=left + 1)).edits)
    assert cost(larger, of) > keep * whole


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("method", [BlocksPruning, LayerDropPruning])
def test_of_an_encoder_decoder_the_same_share_of_both_stacks_stays(method, family, tmp_path):
    model, own = model_of(family), Lesson(tables=tables_of(tmp_path), scratch=tmp_path)
    name = "blocks" if method is BlocksPruning else "layer_drop"
    whole, stacks = model.network.num_parameters(), family_of(model.network).stacks
    before = [len(blocks_at(model.network, stack)) for stack in stacks]
    recipe = plan(model, own, method(method=name, budget={"keep": 0.8}))
    model.edit(recipe.finish(model) if recipe.finish else recipe.edits)
    left = [len(blocks_at(model.network, stack)) for stack in stacks]
    assert before == [3, 3] and left[0] == left[1] < 3 and model.network.num_parameters() <= 0.8 * whole


def test_latency_is_measured_on_what_the_edits_make(lesson):
    """The amount is the largest whose measured share is within the budget, as for what is counted."""
    asked = []

    def measure(whole, edited, texts):
        assert len(texts) == len(lesson.tables["dev"])
        asked.append(edited.network.num_parameters())
        return (edited.network.num_parameters() / whole.network.num_parameters()) ** 2

    timed = replace(lesson, latency=measure)
    model, same = tiny.model("bert"), tiny.model("bert")
    model.edit(plan(model, timed, first_order(budget={"of": "latency", "keep": 0.49})).edits)
    same.edit(plan(same, lesson, first_order(budget={"of": "parameters", "keep": 0.7})).edits)
    assert model.manifest.edits == same.manifest.edits
    assert len(asked) <= 8  # of a hundred shares
    with pytest.raises(InputError, match="a function that measures it"):
        plan(tiny.model("bert"), lesson, first_order(budget={"of": "latency"}))


@pytest.fixture
def halved(tmp_path):
    """A model, the same with one block of four, and texts."""
    whole, edited = tiny.model("bert"), tiny.model("bert")
    edited.edit([KeepBlocks(kept=(0,))])
    return whole, edited, Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path).encode(whole, "dev")


def test_the_exported_files_are_timed(halved, tmp_path):
    assert 0 < relative_latency(tmp_path, tmp_path / "latency.json")(*halved) < 5


@pytest.mark.parametrize("disturbed", [None, "other processes ran"])
def test_latencies_are_measured_once_for_a_machine(disturbed, halved, tmp_path, monkeypatch):
    """A latency that was measured while other processes ran is reported, but not stored."""
    values = iter((0.5, 0.25, 0.125))
    monkeypatch.setattr("lissom.evaluate.relative_latency._measured", lambda *_: (next(values), disturbed))
    measure = relative_latency(tmp_path, tmp_path / "cache" / "latency.json")
    whole, edited, texts = halved
    others = tiny.model("bert", seed=1)
    others.edit([KeepBlocks(kept=(3,))])  # the same shapes
    assert [measure(whole, model, texts) for model in (edited, others)] == ([0.5, 0.25] if disturbed else [0.5, 0.5])
    assert measure(whole, whole, texts) == (0.125 if disturbed else 0.25)


def test_latencies_are_those_of_a_models_settings_too(halved, tmp_path, monkeypatch):
    """Windows, and numbers of heads, that no shape of a tensor tells."""
    values = iter((0.5, 0.4, 0.3))
    monkeypatch.setattr("lissom.evaluate.relative_latency._measured", lambda *_: (next(values), None))
    measure = relative_latency(tmp_path, tmp_path / "latency.json")
    whole, _, texts = halved
    windows = [tiny.model("bert"), tiny.model("bert"), tiny.model("bert", num_attention_heads=2)]
    for model, radius in zip(windows, (2, 5, 2), strict=True):
        model.edit([UseAttention(patterns=(FixedRadius(pattern="fixed_radius", radius=radius),))])
    assert [measure(whole, model, texts) for model in windows] == [0.5, 0.4, 0.3]


def test_what_cannot_be_reached_is_refused(lesson, tmp_path):
    with pytest.raises(InputError, match=r"0\.1 of parameters cannot be reached; the least is 0"):
        plan(tiny.model("bert"), lesson, first_order(budget={"keep": 0.1}))
    with pytest.raises(ValidationError, match="give one of them"):
        BlocksPruning(method="blocks")
    with pytest.raises(ValidationError, match="give one of them"):
        BlocksPruning(method="blocks", blocks=2, budget={"keep": 0.5})
    with pytest.raises(ValidationError, match="give one of them"):
        BlocksPruning(method="blocks", decoder_blocks=2, budget={"keep": 0.5})
    with pytest.raises(ValidationError, match="give one of them"):
        LayerDropPruning(method="layer_drop")
