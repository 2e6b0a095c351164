"""However a training is cut, it is the training of one process: the same losses, the same weights."""

import numpy as np
import pytest
import torch

from lissom.distill.logits import against_teacher
from lissom.distill.mutual import MutualLoss
from lissom.distill.teacher import CachedLogits
from lissom.models.edits import KeepHeads, KeepNeurons
from lissom.models.together import Together
from lissom.training.config import LogitsLossParams, TrainingParams
from lissom.training.loop import fit
from lissom.training.losses import task_loss
from lissom.training.predicting import score
from tests.distributed.processes import spread
from tests.unit import tiny
from tests.unit.test_loop import examples

PARAMS = TrainingParams(
    epochs=2, batch_size=8, learning_rate=3e-3, precision="float32", seed=3, freeze_word_table=False
)
DATA = examples(27)  # the last batch of an epoch has three examples

LAYOUTS = {
    "replicas": {"data": 2},
    "more replicas than examples in the last batch": {"data": 4},
    "accumulated": {"data": 2, "microbatches": 2},
    "sharded": {"data": 2, "shard": True},
    "tensor": {"tensor": 2},
    "tensor, every head alone": {"tensor": 4},
    "tensor, sequence": {"tensor": 2, "sequence": True},
    "tensor and replicas": {"tensor": 2, "data": 2},
    "gpipe": {"pipeline": 2, "microbatches": 3, "schedule": "gpipe"},
    "1f1b": {"pipeline": 4, "microbatches": 4},
    "naive pipeline": {"pipeline": 2, "schedule": "gpipe"},
    "interleaved": {"pipeline": 2, "microbatches": 4, "schedule": "interleaved_1f1b"},
    "zero bubble": {"pipeline": 2, "microbatches": 4, "schedule": "zero_bubble"},
    "varuna": {"pipeline": 4, "microbatches": 5, "schedule": "varuna"},
    "recomputed": {"pipeline": 2, "microbatches": 2, "recompute": True},
    "2 x 2 x 2": {"data": 2, "tensor": 2, "pipeline": 2, "microbatches": 2},
}


def quiet(model):
    """Without dropout, whose masks depend on the layout, and with 64 bits, so that Adam does not enlarge rounding."""
    model.network.double()
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.network.config.attention_probs_dropout_prob = 0.0
    return model


def train(world, family="bert", edits=(), loss=task_loss, params=PARAMS):
    model = quiet(tiny.model(family))
    model.edit(edits)
    look = lambda: score(model.network, DATA, model.pad_id)  # noqa: E731
    fitted = fit(model.network, DATA, model.pad_id, loss, params, score=look, world=world)
    state = {name: tensor.detach().numpy().copy() for name, tensor in model.network.state_dict().items()}
    return state, fitted.records


def compare(found, expected, tolerance=2e-5):
    weights, records = expected
    for state, told in found:
        for name, value in weights.items():
            if name.endswith(
                ("key.bias", "k_lin.bias")
            ):  # no gradient but rounding, which Adam makes large; nothing depends on it
                continue
            np.testing.assert_allclose(state[name], value, atol=tolerance, err_msg=name)
        assert [sorted(record) for record in told] == [sorted(record) for record in records]
        for ours, theirs in zip(told, records, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.fixture(scope="module")
def alone():
    return {family: train(None, family) for family in tiny.FAMILY_NAMES}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_trains_as_one_process_does(layout, alone):
    compare(spread(train, **layout), alone["bert"])


@pytest.mark.parametrize("family", [name for name in tiny.FAMILY_NAMES if name != "bert"])
@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2, "microbatches": 2}], ids=["tensor", "pipeline"])
def test_every_family_can_be_cut(family, layout, alone):
    compare(spread(train, family, **layout), alone[family])


UNEVEN = [
    KeepHeads(kept=((0, 1), (2,), (0, 1, 2, 3), (1, 3))),
    KeepNeurons(kept=(tuple(range(8)), tuple(range(40)), tuple(range(7)), tuple(range(48)))),
]


@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 3, "microbatches": 3}, {"data": 3}], ids=str)
def test_pruned_networks_with_uneven_blocks_can_be_cut(layout):
    compare(spread(train, "bert", UNEVEN, **layout), train(None, "bert", UNEVEN))


@pytest.mark.parametrize("layout", [{"pipeline": 2, "microbatches": 2}, {"tensor": 2}, {"data": 2}], ids=str)
def test_students_learn_from_cached_logits(layout):
    answers = CachedLogits(torch.randn(27, 3, generator=torch.Generator().manual_seed(0)))
    loss = against_teacher(answers, LogitsLossParams())
    compare(spread(train, "bert", (), loss, **layout), train(None, "bert", (), loss))


def train_peers(world):
    peers = [quiet(tiny.model("bert", seed)) for seed in (0, 1)]
    together = Together([peer.network for peer in peers])
    objective = MutualLoss(1.0, 0.5)
    fitted = fit(together, DATA, 0, objective, PARAMS, hooks=[objective], world=world)
    return {name: tensor.detach().numpy().copy() for name, tensor in together.state_dict().items()}, fitted.records


@pytest.mark.parametrize("layout", [{"pipeline": 2, "microbatches": 2}, {"tensor": 2}, {"data": 2}], ids=str)
def test_networks_that_learn_together_are_cut_together(layout):
    compare(spread(train_peers, **layout), train_peers(None))
