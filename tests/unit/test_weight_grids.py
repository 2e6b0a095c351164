"""Grids of weights of 1 to 8 bits, and their packed form."""

import math

import numpy as np
import pytest
import torch

from lissom.models.grid import WeightGrid, clipped_scales, learned_rounding, row_scales
from lissom.models.packing import PLANES, narrowest, pack, packed_sizes, unpack

GRIDS = [
    *[WeightGrid(bits, scale) for bits in (2, 3, 4, 7, 8) for scale in ("max", "mse", "learned")],
    WeightGrid(1, "mean"),
    WeightGrid(2, "mean"),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounded_weights_are_integers_times_scales(grid):
    weight = torch.randn(6, 200)
    scales = grid.scales(weight)
    integers = grid.integers(weight, scales)
    assert torch.allclose(grid.fake(weight, scales), integers.float() * scales[:, None], atol=1e-6)
    assert integers.min() >= grid.low and integers.max() <= grid.high
    assert len(integers.unique()) <= 2**grid.bits
    assert narrowest(integers.numpy()) <= (grid.bits if grid.bits in PLANES else 8)
    assert (scales > 0).all() and (grid.scales(torch.zeros(2, 4)) > 0).all()


@pytest.mark.parametrize("high", [1, 3, 7, 63, 127])
def test_clipped_scales_are_never_worse(high):
    weight = torch.randn(20, 100) * torch.rand(20, 1)
    errors = [
        ((weight / s[:, None]).round().clamp(-high, high) * s[:, None] - weight).square().sum(1)
        for s in (clipped_scales(weight, high), row_scales(weight, high))
    ]
    assert (errors[0] <= errors[1] + 1e-6).all()
    if high < 7:
        assert errors[0].sum() < 0.9 * errors[1].sum()


def test_the_mean_is_the_best_scale_of_signs():
    weight = torch.randn(3, 50)
    signs = torch.where(weight < 0, -1.0, 1.0)
    best = WeightGrid(1, "mean").scales(weight)
    for ratio in (0.8, 0.95, 1.05, 1.2):
        errors = [(weight - (s * signs.T).T).square().sum(1) for s in (best, ratio * best)]
        assert (errors[0] < errors[1]).all()


def test_the_sign_of_zero_is_one():
    grid, weight = WeightGrid(1, "mean"), torch.tensor([[0.0, -1.0, 2.0]])
    assert grid.integers(weight, grid.scales(weight)).tolist() == [[1, -1, 1]]


def test_ternary_weights_by_hand():
    """Li et al. 2016: the threshold is 0.7 of the mean, the scale the mean of what is above it."""
    grid, weight = WeightGrid(2, "mean"), torch.tensor([[0.1, -1.0, 2.0, 0.5, -0.6]])  # mean 0.84, threshold 0.588
    scales = grid.scales(weight)
    assert grid.integers(weight, scales).tolist() == [[0, -1, 1, 0, -1]]
    assert scales.item() == pytest.approx(1.2)


@pytest.mark.parametrize("bits", [1, 2])
def test_the_gradient_of_signs_stops_beyond_one(bits):
    grid = WeightGrid(bits, "mean")
    weight = torch.tensor([[-1.5, -0.9, 0.1, 0.9, 1.5]], requires_grad=True)
    grid.fake(weight, grid.scales(weight)).sum().backward()
    assert weight.grad.tolist() == [[0, 1, 1, 1, 0]]


def test_the_gradient_of_a_learned_step():
    """Esser et al. 2020, equations 2 and 3; and the slope of the rounded values away from their jumps."""
    low, high = -4, 3
    values = torch.tensor([[-9.0, -1.3, 0.2, 1.9, 7.0]], dtype=torch.float64, requires_grad=True)
    step = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    learned_rounding(values, step, low, high).sum().backward()
    scaled = values.detach() / step.detach()
    inside = (scaled >= low) & (scaled <= high)
    expected = torch.where(inside, scaled.round() - scaled, scaled.clamp(low, high)).sum() / math.sqrt(5 * high)
    assert step.grad.item() == pytest.approx(expected.item())
    assert values.grad.tolist() == [[0, 1, 1, 1, 0]]
    shift, outside = 1e-6, values.detach()[:, [0, 4]]
    bounds = [learned_rounding(outside, step.detach() + sign * shift, low, high) for sign in (-1, 1)]
    assert ((bounds[1] - bounds[0]) / (2 * shift)).tolist() == [pytest.approx([low, high])]


def test_a_step_below_zero_is_not_used():
    rounded = learned_rounding(torch.randn(2, 3), torch.tensor([-0.1, 0.0]), -4, 3)
    assert torch.isfinite(rounded).all() and rounded.abs().max() < 1e-6


@pytest.mark.parametrize("bits", sorted(PLANES))
@pytest.mark.parametrize("count", [1, 2, 5, 8, 63, 64])
def test_packed_integers_come_back(bits, count):
    allowed = [-1, 1] if bits == 1 else range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    integers = np.random.default_rng(count).choice(allowed, count).astype(np.int8)
    planes = pack(integers, bits)
    assert [len(plane) for plane in planes] == packed_sizes(bits, count)
    assert sum(packed_sizes(bits, 64)) == 8 * bits
    assert (unpack(planes, bits, count) == integers).all()


def test_all_integers_of_each_width_are_told_apart():
    assert [narrowest(np.int8(values)) for values in ([-1, 1], [0, 1], [-2, 1], [2], [-4, 3], [-5], [-8, 7], [8])] == [
        1, 2, 2, 3, 3, 4, 4, 8,
    ]  # fmt: skip


def test_products_of_signs_can_be_counted():
    """Hubara et al. 2016, §4.2: a . b = n - 2 popcount(a xor b)."""
    first, second = (np.random.default_rng(seed).choice([-1, 1], 40).astype(np.int8) for seed in (0, 1))
    packed = [pack(values, 1)[0] for values in (first, second)]
    differing = sum(int(byte).bit_count() for byte in packed[0] ^ packed[1])
    assert 40 - 2 * differing == int(first.astype(int) @ second.astype(int))
