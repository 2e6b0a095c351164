"""Movement pruning: the straight-through gradient, exact counts, and the order that the scores learn."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.nn.utils import parametrize

from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import KeepBlocks, SparseWeights
from lissom.prune.masks import prunable
from lissom.prune.movement import Masked, kept_share
from lissom.prune.plan import plan
from lissom.prune.sparse_config import MovementPruning
from lissom.training.checkpoint import Checkpoints
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


def params_of(**changes):
    given = {"method": "movement", "rewind": "none", "training": SHORT | {"epochs": 2}, **changes}
    return MovementPruning.model_validate(given)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_gradients_pass_straight_through(threshold):
    """dL/dS = dL/dW' * W for all entries, masked ones too; dL/dW = dL/dW' * M."""
    weight = torch.randn(4, 6, requires_grad=True)
    masked = Masked(weight, threshold)
    masked.kept = 0.5
    masked.scores.data = torch.randn(24)
    upstream = torch.randn(4, 6)
    of_weight, of_scores = torch.autograd.grad(masked(weight), [weight, masked.scores], upstream)
    mask = masked.mask().view(4, 6)
    assert torch.allclose(of_weight, upstream * mask)
    assert torch.allclose(of_scores, (upstream * weight.detach()).flatten())
    assert (of_scores[mask.flatten() == 0] != 0).all() and 0 < int(mask.sum()) < 24


@pytest.mark.parametrize("kept", [0.0, 0.15, 0.5, 1.0])
def test_counts_are_exact(kept):
    masked = Masked(torch.randn(7, 9))
    masked.kept = kept
    assert int(masked.mask().sum()) == math.floor(kept * 63 + 1e-9)  # also with ties: all scores are 0
    masked.scores.data = torch.randn(63)
    kept_scores, mask = masked.scores.detach(), masked.mask().bool()
    assert not mask.any() or mask.all() or kept_scores[mask].min() >= kept_scores[~mask].max()


def test_scores_learn_the_sum_of_movements():
    """With weights at rest, S is -rate * sum of dL/dW' * W: its order is that of plain gradient descent."""
    torch.manual_seed(0)
    weight, target, inputs = torch.randn(3, 5), torch.randn(3, 8), torch.randn(5, 8)
    masked, total = Masked(weight), torch.zeros(15)
    optimizer = torch.optim.SGD([masked.scores], lr=0.1)
    for _ in range(6):
        product = masked(weight).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(((product @ inputs - target) ** 2).mean(), product)
        total += (gradient * weight).flatten()
        optimizer.zero_grad()
        ((masked(weight) @ inputs - target) ** 2).mean().backward()
        optimizer.step()
    assert torch.allclose(masked.scores.detach(), -0.1 * total, atol=1e-5)
    assert torch.equal(masked.scores.detach().argsort(), (-total).argsort())


def test_the_schedule_rests_at_both_ends():
    params = params_of(sparsity=0.8, warmup=0.2, cooldown=0.3)
    shares = [kept_share(params, step, 100) for step in range(101)]
    assert shares[:21] == [1.0] * 21 and shares[70:] == pytest.approx([0.2] * 31)
    assert shares == sorted(shares, reverse=True) and shares[45] == pytest.approx(1 - 0.8 * (1 - 0.5**3))


@families
def test_the_result_is_sparse_and_saved(family, lesson, tmp_path):
    model, params = tiny.model(family), params_of(sparsity=0.7)
    teacher, batch = LiveTeacher(tiny.model(family, 1).network), tiny.batch(family)
    names = sorted(model.network.state_dict())
    compress(model, plan(model, lesson, params), lesson, teacher, params.training)
    assert sorted(model.network.state_dict()) == names
    for path in prunable(model.network):
        weight = model.network.get_submodule(path).weight
        assert not parametrize.is_parametrized(model.network.get_submodule(path))
        assert int((weight != 0).sum()) == math.floor(0.3 * weight.numel() + 1e-9)
    assert isinstance(model.manifest.edits[-1], SparseWeights)
    save(model, tmp_path / "model")
    with torch.no_grad():
        before, after = (logits_of(each.network.eval(), batch) for each in (model, load(tmp_path / "model")))
    assert torch.equal(before, after)


def test_weights_start_from_the_pre_trained_model(lesson, tmp_path):
    """With a learning rate of nearly nothing, what is left is the pre-trained model's; what was zero before stays it."""
    base = tiny.model("bert", 7)
    save(base, tmp_path / "base")
    model = tiny.model("bert", 2)
    model.manifest = model.manifest.model_copy(update={"base": f"dir:{tmp_path / 'base'}"})
    model.edit([KeepBlocks(kept=(0, 3))])
    base.edit([KeepBlocks(kept=(0, 3))])
    first = prunable(model.network)[0]
    with torch.no_grad():
        model.network.get_submodule(first).weight[0] = 0
    params = params_of(rewind="base", sparsity=0.5, training=SHORT | {"learning_rate": 1e-12})
    compress(model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert").network), params.training)
    for path in prunable(model.network):
        weight, own = (each.network.get_submodule(path).weight for each in (model, base))
        assert 0 < int((weight != 0).sum()) <= weight.numel() // 2
        assert torch.allclose(weight, own * (weight != 0), atol=1e-6)
    assert not model.network.get_submodule(first).weight[0].any()
    assert MovementPruning(method="movement").rewind == "base"


def test_a_larger_penalty_leaves_fewer_weights(lesson):
    sparsity = []
    for penalty in (0.0, 50.0):
        model, params = (
            tiny.model("bert"),
            params_of(variant="soft", penalty=penalty, score_learning_rate=0.3, threshold=0.4),
        )
        compress(
            model, plan(model, lesson, params), lesson, LiveTeacher(tiny.model("bert", 1).network), params.training
        )
        sparsity.append(model.manifest.edits[-1].sparsity)
    assert sparsity[1] > sparsity[0] + 0.1


def test_earlier_weights_are_refused():
    with pytest.raises(ValidationError, match="earlier weights are less sparse"):
        params_of(training=SHORT | {"keep": "best"})
    with pytest.raises(ValidationError, match="must be below 1"):
        params_of(warmup=0.6, cooldown=0.5)


@pytest.mark.parametrize(
    "changes", [{"sparsity": 0.7}, {"variant": "soft", "threshold": 0.4, "penalty": 20, "score_learning_rate": 0.3}]
)
def test_a_stage_that_is_run_again_after_its_training_gives_the_same(changes, lesson, tmp_path):
    """Its training is restored, and takes no step."""
    own = replace(lesson, checkpoints=Checkpoints(tmp_path / "checkpoints", every_seconds=0))
    params, found = params_of(**changes), []
    for _ in range(2):
        model = tiny.model("bert")
        compress(model, plan(model, own, params), own, LiveTeacher(tiny.model("bert", 1).network), params.training)
        found.append(model)
    first, again = found
    assert first.manifest == again.manifest and first.manifest.edits[-1].sparsity > 0.5
    assert all(
        torch.equal(value, again.network.state_dict()[name]) for name, value in first.network.state_dict().items()
    )
