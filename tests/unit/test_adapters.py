"""Low-rank adapters and gradient checkpointing: what learns, what is merged, and that gradients are the same."""

import copy

import pytest
import torch
from pydantic import ValidationError

from lissom.errors import InputError
from lissom.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification
from lissom.models.compressed import logits_of
from lissom.quantize.config import Int8TrainingParams
from lissom.storage import remove_folder
from lissom.training.adapters import Adapter, adapted
from lissom.training.checkpoint import Checkpoints
from lissom.training.config import LoraParams
from lissom.training.loop import fit
from lissom.training.preparing import training_mode
from tests.unit import tiny
from tests.unit.test_loop import PARAMS, KillAt, Killed, examples, same, weights

LORA = LoraParams(rank=2, alpha=4)
TRAINED = PARAMS.model_copy(update={"lora": LORA})
families = pytest.mark.parametrize("family", tiny.FAMILY_NAMES)


@families
def test_merged_is_beside(family):
    """A network starts as it was, and has the same answers with the adapters beside the weights and in them."""
    model, batch = tiny.model(family), tiny.batch(family)
    names = list(model.network.state_dict())
    with torch.no_grad():
        before = logits_of(model.network, batch)
    with adapted(model.network, LORA, seed=0), torch.no_grad():
        adapters = [module for module in model.network.modules() if isinstance(module, Adapter)]
        assert len(adapters) >= 4 * 6 and torch.equal(logits_of(model.network, batch), before)
        for adapter in adapters:
            torch.nn.init.normal_(adapter.up, std=0.3)
        beside = logits_of(model.network, batch)
    with torch.no_grad():
        merged = logits_of(model.network, batch)
    assert torch.allclose(merged, beside, atol=2e-4) and not torch.allclose(merged, before, atol=1e-2)
    assert list(model.network.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_only_the_blocks_products_and_the_head_learn(family):
    network = tiny.model(family).network
    before = weights(network)
    fitted = fit(network, examples(), 0, tiny.LOSS, TRAINED)
    losses = [record["loss"] for record in fitted.records]
    assert losses[-1] < losses[0]
    for name, tensor in network.state_dict().items():
        change = tensor - before[name]
        if any(part in name for part in ("classifier", "pooler", "score")):
            assert change.abs().max() > 0
        elif change.abs().max() > 0:
            assert torch.linalg.matrix_rank(change, rtol=1e-3) <= LORA.rank and name.endswith("weight")
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) > 4 * 4


def test_a_killed_training_of_adapters_resumes_to_the_same_weights(tmp_path):
    def run(hooks=()):
        network = tiny.model("bert").network
        checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
        fit(network, examples(), 0, tiny.LOSS, TRAINED, hooks=hooks, checkpoints=checkpoints)
        remove_folder(tmp_path / "checkpoint")
        return weights(network)

    expected = run()
    with pytest.raises(Killed):
        run([KillAt(7)])
    assert same(expected, run([KillAt(0)]))  # step 0 does not come again


def test_weights_that_are_rounded_must_learn_themselves():
    with pytest.raises(ValidationError, match="set it to null"):
        Int8TrainingParams(lora=LORA)


@families
def test_checkpointed_gradients_are_the_same(family):
    """Also the dropout masks, which are drawn again in the second pass."""
    gradients = []
    for checkpointing in (False, True):
        network, batch = copy.deepcopy(tiny.model(family).network), tiny.batch(family)
        params = PARAMS.model_copy(update={"gradient_checkpointing": checkpointing, "freeze_word_table": False})
        with training_mode(network, params):
            torch.manual_seed(5)
            tiny.LOSS(network, batch).backward()
            gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_networks_without_blocks_have_nothing_to_checkpoint():
    network = BiLstmForSequenceClassification(BiLstmConfig(vocab_size=10))
    with (
        pytest.raises(InputError, match="does not support it; set it to false"),
        training_mode(network, PARAMS.model_copy(update={"gradient_checkpointing": True})),
    ):
        pass
