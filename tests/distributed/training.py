"""What the tests train: a tiny network on a task that it can learn, in any layout."""

import numpy as np
import pytest
import torch

from lissom.training.config import TrainingParams
from lissom.training.loop import fit
from tests.unit import tiny
from tests.unit.test_loop import examples

PARAMS = TrainingParams(
    epochs=2, batch_size=8, learning_rate=3e-3, precision="float32", seed=3, freeze_word_table=False
)
DATA = examples(27)  # the last batch of an epoch has three examples


def quiet(model):
    """Without dropout, whose masks depend on the layout, and with 64 bits, so that Adam does not enlarge rounding."""
    model.network.double()
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.network.config.attention_probs_dropout_prob = 0.0
    return model


def train(world, family="bert", edits=(), loss=None, params=PARAMS, prepare=quiet, **named):
    """Train; return the weights and the records."""
    model = prepare(tiny.model(family))
    model.edit(edits)
    look = tiny.scorer(model, DATA)
    fitted = fit(model.network, DATA, model.pad_id, loss or tiny.LOSS, params, score=look, world=world, **named)
    return weights(model.network), fitted.records


def weights(network):
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def compare(actual, expected, tolerance=2e-5, loss_tolerance=1e-4):
    """Hold the results of all processes to those of one."""
    state, records = expected
    for own, report in actual:
        for name, value in state.items():
            if name.endswith(("key.bias", "k_lin.bias")):  # no gradient but rounding, which Adam makes large
                continue
            np.testing.assert_allclose(own[name], value, atol=tolerance, err_msg=name)
        assert [sorted(record) for record in report] == [sorted(record) for record in records]
        for ours, theirs in zip(report, records, strict=True):
            assert {**ours} == {name: pytest.approx(value, abs=loss_tolerance) for name, value in theirs.items()}
