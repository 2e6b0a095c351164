"""Relevance: what is handed back adds up to the logit, and heads share what their site hands on."""

import pytest
import torch
from torch import nn

from lissom.models.compressed import logits_of
from lissom.models.edits import KeepHeads
from lissom.models.sites import attention_sites, blocks_of
from lissom.prune.relevance import head_relevance, linearised
from tests.unit import tiny

families = pytest.mark.parametrize("family", tiny.able("heads"))


@families
def test_the_linear_network_has_the_same_answers(family):
    network, batch = tiny.model(family).network.eval(), tiny.batch(family)
    with torch.no_grad():
        expected = logits_of(network, batch)
        with linearised(network):
            assert torch.allclose(logits_of(network, batch), expected, atol=1e-5)
        assert torch.allclose(logits_of(network, batch), expected, atol=1e-6)


@families
def test_relevance_is_conserved(family):
    """The top logit is the relevance of what the first block reads plus that of all biases from there on."""
    network, batch = tiny.model(family).network.eval(), tiny.batch(family)
    embedded = []
    handle = blocks_of(network)[0].register_forward_pre_hook(lambda _, arguments: embedded.append(arguments[0]))
    with linearised(network):
        top = logits_of(network, batch).max(-1).values.sum()
        biases = {
            name: parameter
            for name, parameter in network.named_parameters()
            if name.endswith("bias") and "embeddings" not in name
        }
        values = [embedded[0], *biases.values()]
        gradients = torch.autograd.grad(top, values, allow_unused=True)
    handle.remove()
    total = sum(
        float((value * gradient).sum().detach())
        for value, gradient in zip(values, gradients, strict=True)
        if gradient is not None
    )
    assert total == pytest.approx(float(top.detach()), rel=1e-3)


@families
def test_the_shares_of_a_site_add_up_to_one(family):
    network = tiny.model(family).network.eval()
    for site in head_relevance(network, [tiny.batch(family)]):
        assert float(site.sum()) == pytest.approx(1, abs=1e-4)


@families
def test_a_head_without_influence_has_no_relevance(family):
    model = tiny.model(family)
    units = tiny.units(model.network)
    for site in attention_sites(model.network):
        output = model.network.get_submodule(site.output)
        width = output.in_features // units
        output.weight.data[:, :width] = 0
    for site in head_relevance(model.network.eval(), [tiny.batch(family)]):
        assert float(site[0]) == 0 and float(site[1:].sum()) == pytest.approx(1, abs=1e-4)


@families
def test_relevance_moves_with_the_heads(family):
    model, other, batch = tiny.model(family), tiny.model(family), tiny.batch(family, 32)
    units = tiny.units(model.network)
    order = list(reversed(range(units)))
    _permute(other, order)
    for one, two in zip(
        head_relevance(model.network.eval(), [batch]), head_relevance(other.network.eval(), [batch]), strict=True
    ):
        assert torch.allclose(one[order], two, atol=1e-4, rtol=1e-3)


def _permute(model, order):
    network = model.network
    units = len(order)
    for site in attention_sites(network):
        for path in (site.query, site.key, site.value, *site.positions):
            layer = network.get_submodule(path)
            layer.weight.data = torch.cat([layer.weight.data.chunk(units)[unit] for unit in order])
            if layer.bias is not None:
                layer.bias.data = torch.cat([layer.bias.data.chunk(units)[unit] for unit in order])
        output = network.get_submodule(site.output)
        output.weight.data = torch.cat([output.weight.data.chunk(units, 1)[unit] for unit in order], 1)


def test_without_biases_it_is_input_times_gradient_of_a_relu_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    value = torch.randn(3, 4, requires_grad=True)
    top = network(value).max(-1).values
    (gradient,) = torch.autograd.grad(top.sum(), value)
    assert torch.allclose((value * gradient).sum(-1), top, atol=1e-6)


def test_fewer_heads_have_fewer_shares():
    model = tiny.model("bert")
    model.edit([KeepHeads(kept=((0,), (0, 1), (1, 2, 3), (0, 1, 2, 3)))])
    assert [len(site) for site in head_relevance(model.network.eval(), [tiny.batch("bert")])] == [1, 2, 3, 4]
