"""Relevance: what is handed back adds up to the logit, and heads share what their site hands on."""

import pytest
import torch

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
def test_shares_keep_the_order_of_relevances(family):
    network, batch = tiny.model(family).network.eval(), tiny.batch(family)
    for site, expected in zip(head_relevance(network, [batch]), _relevances(network, batch), strict=True):
        assert float(site.abs().sum()) == pytest.approx(1, abs=1e-4)
        assert torch.allclose(site, expected / expected.abs().sum(), atol=1e-4)


def test_shares_keep_the_order_where_a_site_speaks_against_the_decision():
    against = []
    for seed in range(5):
        network, batch = tiny.model("bert", seed).network.eval(), tiny.batch("bert")
        for site, expected in zip(head_relevance(network, [batch]), _relevances(network, batch), strict=True):
            if float(expected.sum()) < 0:
                against.append(torch.equal(site.argsort(), expected.argsort()))
    assert against and all(against)


def _relevances(network, batch):
    """The relevance of every head, from the outputs of heads and their gradients."""
    contexts, units = {}, tiny.units(network)
    handles = [
        network.get_submodule(site.output).register_forward_pre_hook(
            lambda _, inputs, path=site.output: contexts.setdefault(path, inputs[0])
        )
        for site in attention_sites(network)
    ]
    with linearised(network):
        gradients = torch.autograd.grad(logits_of(network, batch).max(-1).values.sum(), list(contexts.values()))
    for handle in handles:
        handle.remove()
    products = [(value * gradient).detach() for value, gradient in zip(contexts.values(), gradients, strict=True)]
    return [product.unflatten(-1, (units, -1)).sum((0, 1, 3)) for product in products]


@families
def test_a_head_without_influence_has_no_relevance(family):
    model = tiny.model(family)
    units = tiny.units(model.network)
    for site in attention_sites(model.network):
        output = model.network.get_submodule(site.output)
        width = output.in_features // units
        output.weight.data[:, :width] = 0
    for site in head_relevance(model.network.eval(), [tiny.batch(family)]):
        assert float(site[0]) == 0 and float(site[1:].abs().sum()) == pytest.approx(1, abs=1e-4)


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


def test_fewer_heads_have_fewer_shares():
    model = tiny.model("bert")
    model.edit([KeepHeads(kept=((0,), (0, 1), (1, 2, 3), (0, 1, 2, 3)))])
    assert [len(site) for site in head_relevance(model.network.eval(), [tiny.batch("bert")])] == [1, 2, 3, 4]
