"""The Hard-Concrete distribution: its atoms, probabilities and gradients."""

import pytest
import torch

from lissom.prune.hard_concrete import expected_state, open_probability, sample

VALUES = [-4.0, -1.0, 0.0, 0.5, 2.5]


@pytest.mark.parametrize("value", VALUES)
def test_the_probability_of_being_open_is_that_of_samples(value):
    torch.manual_seed(0)
    draws = 1_000_000
    share = float((sample(torch.full((draws,), value)) > 0).double().mean())
    probability = float(open_probability(torch.tensor(value)))
    assert abs(share - probability) < 3 * (probability * (1 - probability) / draws) ** 0.5 + 1e-9


def test_samples_are_in_the_unit_interval_with_atoms_at_its_ends():
    torch.manual_seed(0)
    gates = sample(torch.zeros(10_000))
    assert gates.min() == 0 and gates.max() == 1
    inside = (gates > 0) & (gates < 1)
    assert 0.1 < float(inside.double().mean()) < 0.9 and 0.1 < float((gates == 0).double().mean()) < 0.9


def test_the_gradient_of_the_probability_is_that_of_a_sigmoid():
    log_alpha = torch.tensor(VALUES, requires_grad=True)
    probability = open_probability(log_alpha)
    (gradient,) = torch.autograd.grad(probability.sum(), log_alpha)
    assert torch.allclose(gradient, probability * (1 - probability))


def test_samples_have_a_gradient_between_the_atoms_only():
    torch.manual_seed(0)
    log_alpha = torch.zeros(1000, requires_grad=True)
    gates = sample(log_alpha)
    (gradient,) = torch.autograd.grad(gates.sum(), log_alpha)
    inside = (gates > 0) & (gates < 1)
    assert (gradient[inside] > 0).all() and (gradient[~inside] == 0).all()


def test_without_noise_a_gate_is_above_one_half_where_log_alpha_is_positive():
    values = torch.tensor([-20.0, -1e-3, 1e-3, 20.0])
    assert torch.equal(expected_state(values), expected_state(values))
    assert (expected_state(values) > 0.5).tolist() == [False, False, True, True]
    assert expected_state(values)[0] == 0 and expected_state(values)[-1] == 1
