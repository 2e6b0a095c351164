"""Nearest products of smaller matrices: what is exact, what is lost, and layers that are their matrices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lissom.factorize.config import FactorizeMethod
from lissom.factorize.plan import plan
from lissom.models.factors import (
    KroneckerLinear,
    TensorTrainEmbedding,
    TensorTrainLinear,
)
from lissom.models.linear_algebra import digits, kronecker, low_rank, rows_for, square_root, tensor_train, train_rank
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import tables_in


def squared(matrix):
    return float(matrix.detach().double().square().sum())


def test_full_rank_is_exact_and_the_error_is_the_tail():
    weight = torch.randn(12, 20)
    values = torch.linalg.svdvals(weight.double())
    errors = []
    for rank in (12, 8, 3):
        second, first = low_rank(weight, rank)
        assert second.shape == (12, rank) and first.shape == (rank, 20)
        errors.append(squared(weight - second @ first))
        assert errors[-1] == pytest.approx(float(values[rank:].square().sum()), rel=1e-4, abs=1e-8)
    assert errors == sorted(errors)


def test_a_matrix_of_low_rank_is_found_again():
    weight = torch.randn(16, 3, dtype=torch.float64) @ torch.randn(3, 24, dtype=torch.float64)
    second, first = low_rank(weight, 3)
    assert torch.allclose(second @ first, weight, atol=1e-9)


def test_the_weighted_errors_are_never_larger_than_the_plain_one():
    torch.manual_seed(1)
    weight, rows = torch.randn(16, 24), torch.rand(16) ** 3
    inputs = torch.randn(300, 24) * torch.logspace(-1, 1, 24)
    gram = inputs.double().T @ inputs.double() / 300
    plain, by_rows, by_inputs = (
        low_rank(weight, 6, **kind) for kind in ({}, {"rows": rows}, {"gram": gram})
    )  # fmt: skip

    def change(factors):
        return (weight - factors[0] @ factors[1]).double()

    assert squared(rows[:, None] * change(by_rows)) < squared(rows[:, None] * change(plain))
    outputs = [squared(change(factors) @ inputs.double().T) / 300 for factors in (by_inputs, plain)]
    assert outputs[0] < 0.5 * outputs[1]
    tail = torch.linalg.svdvals(weight.double() @ square_root(gram))[6:].square().sum()
    assert outputs[0] == pytest.approx(float(tail), rel=1e-2)


def test_a_kronecker_product_is_found_again():
    left, right = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    weight = torch.kron(left, right)
    a, b = kronecker(weight, (3, 4), 1)
    assert torch.allclose(torch.kron(a[0], b[0]), weight, atol=1e-12)
    noisy = weight + 0.1 * torch.randn_like(weight)
    blocks = noisy.view(3, 5, 4, 2).permute(0, 2, 1, 3).reshape(12, 10)
    values = torch.linalg.svdvals(blocks)
    for terms in (1, 2, 10):
        a, b = kronecker(noisy, (3, 4), terms)
        layer = KroneckerLinear(a, b, None)
        assert squared(noisy - layer.matrix()) == pytest.approx(
            float(values[terms:].square().sum()), rel=1e-6, abs=1e-12
        )


@pytest.mark.parametrize(("m1", "n1"), [(2, 8), (6, 2), (12, 16), (1, 1)])
def test_a_kronecker_layer_is_its_matrix(m1, n1):
    left, right, bias = torch.randn(3, m1, n1), torch.randn(3, 12 // m1, 16 // n1), torch.randn(12)
    layer, inputs = KroneckerLinear(left, right, bias), torch.randn(2, 5, 16)
    expected = sum(torch.kron(a, b) for a, b in zip(left, right, strict=True))
    assert torch.allclose(layer.matrix(), expected, atol=1e-6)
    assert torch.allclose(layer(inputs), inputs @ expected.T + bias, atol=1e-5)
    layer(inputs).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


class LargestTensor(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize(("m1", "n1"), [(32, 32), (2, 4), (32, 2)])
def test_a_kronecker_layer_holds_no_factor_per_token(m1, n1):
    terms, tokens = 2, 100
    layer = KroneckerLinear(torch.randn(terms, m1, n1), torch.randn(terms, 64 // m1, 64 // n1), None)
    inputs = torch.randn(tokens, 64, requires_grad=True)
    with LargestTensor() as largest:
        layer(inputs).sum().backward()
    between = min(n1 * (64 // m1), m1 * (64 // n1))
    assert 0 < largest.elements <= tokens * max(64, terms * between)


def test_a_tensor_train_within_its_bound():
    """The error is at most the root of the sum of squared tails of all unfoldings (Oseledets 2011, theorem 2.2)."""
    weight = torch.randn(24, 12, dtype=torch.float64)
    exact = TensorTrainLinear(tensor_train(weight, [2, 3, 4], [3, 2, 2], 100), None)
    assert torch.allclose(exact.matrix(), weight, atol=1e-10)
    tensor = weight.view(2, 3, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5)
    for rank in (2, 4):
        layer = TensorTrainLinear(tensor_train(weight, [2, 3, 4], [3, 2, 2], rank), None)
        assert max(core.shape[3] for core in layer.cores) == rank
        tails = sum(float(torch.linalg.svdvals(tensor.reshape(size, -1))[rank:].square().sum()) for size in (6, 36))
        assert squared(weight - layer.matrix()) <= tails * (1 + 1e-9)


@pytest.mark.parametrize("cores", [2, 3, 4])
@pytest.mark.parametrize("error", [0.05, 0.3, 0.6])
def test_a_rank_that_follows_from_an_error_keeps_it(error, cores):
    """Weights whose singular values fall, as a network's do; the last rows are padding."""
    decay = torch.logspace(0, -3, 16, dtype=torch.float64)
    weight = torch.randn(75, 16, dtype=torch.float64) * decay @ torch.randn(16, 48, dtype=torch.float64)
    rows, columns = rows_for(75, cores), digits(48, cores)[::-1]
    rank = train_rank(weight, rows, columns, error)
    layer = TensorTrainLinear(tensor_train(weight, rows, columns, rank), None)
    assert squared(weight - layer.matrix()[:75]) <= error**2 * squared(weight)
    if cores == 2:  # one division, where TT-SVD is the best there is: one rank less is too few
        less = TensorTrainLinear(tensor_train(weight, rows, columns, rank - 1), None) if rank > 1 else None
        assert less is None or squared(weight - less.matrix()[:75]) > error**2 * squared(weight)


def test_a_train_of_rank_one_is_a_kronecker_product():
    left, right = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    cores = tensor_train(torch.kron(left, right), [3, 5], [4, 2], 1)
    layer = TensorTrainLinear(cores, None)
    assert torch.allclose(layer.matrix(), torch.kron(left, right), atol=1e-12)


def test_train_layers_are_their_matrices():
    weight, bias, inputs = torch.randn(24, 12), torch.randn(24), torch.randn(2, 5, 12)
    layer = TensorTrainLinear(tensor_train(weight, [2, 3, 4], [3, 2, 2], 3), bias)
    assert torch.allclose(layer(inputs), inputs @ layer.matrix().T + bias, atol=1e-5)
    table = TensorTrainEmbedding(tensor_train(torch.randn(50, 12), [3, 4, 5], [3, 2, 2], 4), 50)
    ids = torch.arange(50).view(5, 10)
    assert table.matrix().shape == (50, 12)
    assert torch.allclose(table(ids), table.matrix()[ids], atol=1e-6)


def test_numbers_are_divided_evenly():
    assert digits(384, 3) == [6, 8, 8] and digits(1536, 2) == [32, 48] and digits(7, 2) == [1, 7]
    for number in (30_522, 80, 2):
        rows = rows_for(number, 3)
        assert number <= np.prod(rows) < 1.2 * number + 8


@pytest.mark.parametrize("method", ["kronecker", "tensor_train"])
def test_all_factors_learn_by_default(method, tmp_path):
    """Those of the word table, too, which other trainings leave as it is."""
    lesson = Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)
    params = TypeAdapter(FactorizeMethod).validate_python(
        {"method": method, **({"table": 4} if method == "kronecker" else {"table": 8, "ffn": None})}
    )
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 0.1, "batch_size": 8})})
    model = tiny.model("bert")
    recipe, before = plan(model, lesson, params), {}

    def remember(edited):
        before.update({name: value.detach().clone() for name, value in edited.network.named_parameters()})

    compress(
        model, replace(recipe, calibrate=remember), lesson, LiveTeacher(tiny.model("bert", 1).network), params.training
    )
    factors = [name for name in before if "word_embeddings" in name]
    assert len(factors) > 1
    for name, value in model.network.named_parameters():
        assert not torch.equal(value, before[name]) or "position" in name or "token_type" in name, name
    with pytest.raises(ValidationError):
        TypeAdapter(FactorizeMethod).validate_python({"method": method, "training": {"lora": {"rank": 2}}})


def test_layers_without_inputs_or_gradients_are_factorised_plainly():
    weight, nothing = torch.randn(6, 5), torch.zeros(5, 5)
    expected = torch.matmul(*low_rank(weight, 3))
    assert torch.allclose(torch.matmul(*low_rank(weight, 3, gram=nothing)), expected, atol=1e-5)
    assert torch.allclose(torch.matmul(*low_rank(weight, 3, rows=torch.zeros(6))), expected, atol=1e-5)
