"""Scores of single weights: by hand, by finite differences and by what removing them costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lissom.data.batches import sorted_batches
from lissom.models.compressed import logits_of
from lissom.prune.criteria import batches_for, gradients, scores_of
from lissom.prune.masks import keep_highest, prunable, ranks
from lissom.training.loop import fit
from tests.unit import tiny
from tests.unit.test_loop import PARAMS as TRAINING
from tests.unit.test_loop import examples


def test_taylor_is_the_change_of_the_loss():
    """For a loss that is linear in a weight; gradient and snip from the same derivative."""
    model, batch = tiny.model("bert"), next(sorted_batches(examples(), 40, 0))
    path = prunable(model.network)[-1]

    def linear(logits, _):
        return logits_weight.sum() + 0 * logits.sum()

    weight = model.network.get_submodule(path).weight
    factors = torch.randn_like(weight)
    logits_weight = weight * factors
    taylor = scores_of("taylor", model.network, [path], [batch], linear, "global", 0)[path]
    assert torch.allclose(taylor, (weight * factors).abs().detach(), atol=1e-6)
    logits_weight = weight * factors
    snip = scores_of("snip", model.network, [path], [batch], linear, "global", 0)[path]
    assert float(snip.sum()) == pytest.approx(1, abs=1e-5) and torch.allclose(snip, taylor / taylor.sum(), atol=1e-7)


def test_taylor_does_not_see_a_rescaling_and_magnitude_does():
    """Queries times 4 and keys over 4: the same network."""
    model, batches = tiny.model("bert"), list(sorted_batches(examples(), 8, 0))
    paths = [path for path in prunable(model.network) if path.endswith((".query", ".key"))][:2]
    before = {
        name: scores_of(name, model.network, paths, batches, model.manifest.task.loss, "global", 0)
        for name in ("taylor", "magnitude")
    }
    with torch.no_grad():
        for path, factor in zip(paths, (4.0, 0.25), strict=True):
            layer = model.network.get_submodule(path)
            layer.weight.mul_(factor), layer.bias.mul_(factor)
    after = {
        name: scores_of(name, model.network, paths, batches, model.manifest.task.loss, "global", 0)
        for name in ("taylor", "magnitude")
    }
    for path in paths:
        assert torch.allclose(before["taylor"][path], after["taylor"][path], rtol=1e-3, atol=1e-9)
        assert not torch.allclose(before["magnitude"][path], after["magnitude"][path], rtol=0.1)


def test_the_gradient_of_a_gate_is_weight_times_gradient():
    model, batch = tiny.model("bert"), next(sorted_batches(examples(), 40, 0))
    path = prunable(model.network)[0]
    layer = model.network.get_submodule(path)
    gate = torch.ones_like(layer.weight, requires_grad=True)
    handle = layer.register_forward_hook(lambda _, args, __: F.linear(args[0], layer.weight * gate, layer.bias))
    (gradient,) = torch.autograd.grad(model.manifest.task.loss(logits_of(model.network, batch), batch.targets), gate)
    handle.remove()
    taylor = scores_of("taylor", model.network, [path], [batch], model.manifest.task.loss, "global", 0)[path]
    assert torch.allclose(taylor, gradient.abs(), atol=1e-6)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_both_must_be_small(scope):
    """The larger rank of what is removed is below that of what is kept."""
    model, batches = tiny.model("bert"), list(sorted_batches(examples(), 8, 0))
    layers, loss = prunable(model.network), model.manifest.task.loss
    both = scores_of("magnitude_and_gradient", model.network, layers, batches, loss, scope, 0)
    masks = keep_highest(both, 0.4, scope)
    single = [scores_of(name, model.network, layers, batches, loss, scope, 0) for name in ("magnitude", "gradient")]
    for names in [[path] for path in layers] if scope == "layer" else [layers]:
        values = [ranks(torch.cat([each[path].flatten() for path in names])) for each in single]
        removed = torch.cat([~masks[path].flatten() for path in names])
        larger = torch.maximum(*values)
        assert larger[removed].max() <= larger[~removed].min() and removed.float().mean() == pytest.approx(
            0.4, abs=0.02
        )


def test_magnitude_is_better_than_chance():
    """On a toy model that has learnt its task: the loss after removing half of the weights."""
    losses = {}
    for criterion in ("magnitude", "random"):
        model, data = tiny.model("bert"), examples(200)
        fit(model.network, data, 0, tiny.LOSS, TRAINING.model_copy(update={"epochs": 12, "learning_rate": 5e-3}))
        batches, layers = list(sorted_batches(data, 40, 0)), prunable(model.network)
        scores = scores_of(criterion, model.network, layers, batches, model.manifest.task.loss, "global", 0)
        with torch.no_grad():
            for path, mask in keep_highest(scores, 0.5, "global").items():
                model.network.get_submodule(path).weight.mul_(mask)
            losses[criterion] = sum(float(tiny.LOSS(model.network, batch)) for batch in batches)
    assert losses["magnitude"] < losses["random"]


def test_the_batch_of_snip_has_every_label_and_all_lengths():
    data = examples(200)
    rare = np.asarray(data.targets).copy()
    rare[:] = 0
    rare[[17, 130]] = 1, 2
    data = replace(data, targets=rare)
    (batch,) = batches_for("snip", data, 0, 200, seed=0)
    assert set(batch.targets.tolist()) == {0, 1, 2} and len(batch.targets) == 32
    (other,) = batches_for("snip", data, 0, 200, seed=1)
    assert batch.indices.tolist() != other.indices.tolist()
    lengths = data.lengths[batch.indices.numpy()]
    assert lengths.max() > np.sort(data.lengths)[31], "not the shortest texts alone"


def test_gradients_are_those_of_the_mean_loss_whatever_the_batches():
    """A last batch of one example counts as one."""
    model, data = tiny.model("bert"), examples(17)
    layers, loss = prunable(model.network)[:3], model.manifest.task.loss
    found = [
        gradients(model.network, layers, list(sorted_batches(data, size, 0)), loss, absolute=False) for size in (17, 8)
    ]
    for path in layers:
        torch.testing.assert_close(found[0][path], found[1][path], atol=1e-6, rtol=1e-3)
