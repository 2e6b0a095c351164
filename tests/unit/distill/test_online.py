"""Networks that are trained side by side: what flows between them, and what must not."""

import pytest
import torch

from lissom.distill.ema import MovingAverage, ema_loss
from lissom.distill.joint import joint_loss
from lissom.distill.mutual import MutualLoss, mutual_losses
from lissom.distill.online_config import JointDistillation
from lissom.models.together import Together
from lissom.training.config import TrainingParams
from lissom.training.loop import fit
from lissom.training.objective import objective
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, params_of


def test_peers_learn_from_each_other_without_gradients_across():
    torch.manual_seed(0)
    logits = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    labels = torch.tensor([0, 1, 2, 0])
    losses = mutual_losses(tiny.TASK, logits, labels, 1.0)
    swapped = mutual_losses(tiny.TASK, logits[::-1], labels, 1.0)
    assert [float(loss) for loss in swapped] == [float(loss) for loss in losses[::-1]]
    assert torch.autograd.grad(losses[0], logits[1], allow_unused=True)[0] is None
    equal = mutual_losses(tiny.TASK, [logits[0], logits[0]], labels, 1.0)
    assert float(equal[0]) == pytest.approx(float(torch.nn.functional.cross_entropy(logits[0], labels)), rel=1e-6)


def still(seed: int = 0):
    """Without dropout, whose masks two networks would draw in turn."""
    model = tiny.model("bert", seed)
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    return model


def test_without_the_kl_peers_train_as_if_alone(material):
    data, params = material.texts(material.teacher), TrainingParams(**SHORT)
    peers, alone = [still(0), still(5)], [still(0), still(5)]
    loss = MutualLoss(0.0, 0.0, tiny.TASK)
    fit(Together([peer.network for peer in peers]), data, 0, objective(loss), params, hooks=[loss])
    for peer, solo in zip(peers, alone, strict=True):
        fit(solo.network, data, 0, tiny.LOSS, params)
        own = solo.network.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in peer.network.state_dict().items())
    twins = [still(1), still(1)]
    fit(Together([twin.network for twin in twins]), data, 0, objective(MutualLoss(1.0, 0.0, tiny.TASK)), params)
    first, second = (twin.network.state_dict() for twin in twins)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_joint_training_stops_the_pull_on_the_teacher_unless_asked(teacher):
    student, batch = tiny.model("bert", 3), tiny.batch("bert")
    gradients = []
    for co_train in (0.0, 0.5):
        learner = tiny.model("bert", 4)
        params = JointDistillation(method="joint", blocks=(0,), co_train=co_train)
        joint_loss(params, tiny.TASK)(Together([learner.network, student.network]), batch).backward()
        gradients.append(learner.network.classifier.weight.grad)
    plain = tiny.model("bert", 4)
    tiny.LOSS(plain.network, batch).backward()
    assert torch.allclose(gradients[0], plain.network.classifier.weight.grad, atol=1e-6)
    assert not torch.allclose(gradients[1], gradients[0], atol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_average_follows_or_stays(momentum, material):
    pair = Together([tiny.model("bert").network, tiny.model("bert", 7).network])
    pair[1].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in pair[1].state_dict().items()}
    params = params_of("ema").loss
    fit(
        pair,
        material.texts(material.teacher),
        0,
        ema_loss(params, tiny.TASK),
        TrainingParams(**SHORT),
        hooks=[MovingAverage(momentum)],
    )
    expected = before if momentum else pair[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in pair[1].state_dict().items())
