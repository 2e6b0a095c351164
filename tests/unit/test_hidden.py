"""Pruning of hidden channels: those that matter least go, and the training that follows works."""

import pytest
import torch

from lissom.errors import InputError, ParamsError
from lissom.models.channels import channel_axes
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepChannels
from lissom.params import check_params
from lissom.prune.config import HiddenPruning
from lissom.prune.hidden import channel_activation, channel_importance, channel_magnitude
from lissom.prune.plan import plan
from lissom.training.budget import cost_of
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

PARAMS = HiddenPruning(method="hidden", keep=0.5, multiple=8, training=SHORT)
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@families
def test_planning_leaves_the_model_as_it_is(family, lesson):
    model, same = tiny.model(family), tiny.model(family)
    plan(model, lesson, PARAMS)
    assert model.manifest == same.manifest
    for name, tensor in same.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name]), name


@families
def test_the_saved_model_gives_the_same_answers(family, lesson, tmp_path):
    model, teacher, batch = tiny.model(family), LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    recipe = plan(model, lesson, PARAMS)
    compress(model, recipe, lesson, teacher, PARAMS.training)
    assert recipe.facts["channels"] == {"before": 32, "after": 16}
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


@pytest.mark.parametrize("criterion", ["gradient", "activation", "magnitude"])
@pytest.mark.parametrize("family", ["bert", "llama", "deberta-v2"])
def test_channels_that_do_nothing_go_first(family, criterion, lesson):
    model, idle = tiny.model(family), {3, 17, 30, 31}
    axes = channel_axes(model.network)
    for name, parameter in model.network.named_parameters():
        for axis in axes.get(name, ()):
            parameter.data.index_fill_(axis, torch.tensor(sorted(idle)), 0.0)
    params = PARAMS.model_copy(update={"criterion": criterion, "keep": 28 / 32, "multiple": 4})
    (edit,) = plan(model, lesson, params).edits
    assert set(edit.kept) == set(range(32)) - idle


def test_scores_follow_the_channels():
    """Channels in another order have the same scores, in that order."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    whole, permuted = tiny.model("bert"), tiny.model("bert")
    axes = channel_axes(permuted.network)
    for name, parameter in permuted.network.named_parameters():
        for axis in axes.get(name, ()):
            parameter.data = parameter.data.index_select(axis, order)
    batches = [tiny.batch("bert", seed=seed) for seed in (1, 2)]
    loss = whole.manifest.task.loss
    for score in (
        channel_magnitude,
        lambda network: channel_activation(network, batches),
        lambda network: channel_importance(network, batches, loss),
    ):
        assert torch.allclose(score(permuted.network), score(whole.network)[order], rtol=1e-3)


def test_importance_is_the_gradient_times_the_weight():
    """Of the last layer alone, with the formula of its gradient: (p - y) h^T."""
    model, batch = tiny.model("distilbert"), tiny.batch("distilbert")
    network = model.network
    network.requires_grad_(False)
    network.pre_classifier.weight.requires_grad_(True)
    axes = channel_axes(network)["pre_classifier.weight"]
    network.zero_grad()
    loss = model.manifest.task.loss(logits_of(network, batch), batch.targets)
    loss.backward()
    product = (network.pre_classifier.weight * network.pre_classifier.weight.grad).abs()
    expected = sum(product.movedim(axis, 0).flatten(1).sum(1) for axis in axes)
    network.zero_grad()
    assert torch.allclose(channel_importance(network, [batch], model.manifest.task.loss), expected, rtol=1e-4)


@pytest.mark.parametrize("of", ["parameters", "flops"])
def test_a_budget_is_met_with_as_many_channels_as_possible(of, lesson):
    model = tiny.model("bert")
    params = PARAMS.model_copy(update={"multiple": 2, "keep": 0.75})
    budget = HiddenPruning.model_validate({**params.model_dump(), "budget": {"of": of, "keep": 0.6}})
    (edit,) = plan(model, lesson, budget).edits
    cost = cost_of(model, lesson, budget.budget)

    def of_width(channels):
        smaller = tiny.model("bert")
        smaller.edit([KeepChannels(kept=tuple(range(channels)))])
        return cost(smaller)

    assert of_width(len(edit.kept)) <= 0.6 < of_width(len(edit.kept) + 2)


def test_what_does_not_fit_is_told(lesson):
    with pytest.raises(InputError, match="multiple: 64 channels; the model has 32"):
        plan(tiny.model("bert"), lesson, PARAMS.model_copy(update={"multiple": 64}))
    params = {
        "base": {"model": "dir:somewhere"}, "data": {"source": "files:train.csv"},
        "distill": {"method": "fastbert"}, "prune": [{"method": "hidden"}],
    }  # fmt: skip
    with pytest.raises(ParamsError, match="makes exits that read all of them"):
        check_params(params)
