"""Networks whose head shares the word table: tied before an edit, tied after it, stored once."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, GPT2LMHeadModel, LlamaForCausalLM

from lissom.distill.language import Masking, language_loss
from lissom.distill.offline_config import LanguageModelParams
from lissom.models.base import load_language_model
from lissom.models.config import BaseParams
from lissom.models.edits import FactorizeWordTable, FakeQuantize, KeepVocabulary
from lissom.models.families import family_of
from lissom.models.fused import separate
from lissom.models.sites import tied_head
from lissom.models.tied import aliases, assign, untied_state
from lissom.storage import remove_folder
from lissom.training.checkpoint import Checkpoints
from lissom.training.loop import fit
from tests.unit import tiny
from tests.unit.distill.test_texts import masked_language_model, with_mask_token
from tests.unit.test_loop import PARAMS, KillAt, Killed, examples, same, weights


def language_model(family: str):
    torch.manual_seed(0)
    classes = {"bert": BertForMaskedLM, "gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}
    config = tiny.CONFIGS[family]()
    config.tie_word_embeddings = True
    return separate(classes[family](config)).eval()


families = pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])


def answers(network, ids):
    with torch.no_grad():
        return network(input_ids=ids).logits


@families
def test_vocabulary_and_head_are_cut_together(family):
    network, ids = language_model(family), torch.arange(4, 20).view(2, 8)
    before = answers(network, ids)
    KeepVocabulary(kept=tuple(range(30))).apply(network)
    assert torch.allclose(answers(network, ids), before[..., :30], atol=1e-6)
    table = network.get_submodule(family_of(network).word_table)
    assert network.get_submodule(tied_head(network)).weight is table.weight and len(table.weight) == 30


@families
def test_a_factorised_table_factorises_its_head(family):
    network, ids = language_model(family), torch.arange(4, 20).view(2, 8)
    whole = copy.deepcopy(network)
    FactorizeWordTable(rank=8).apply(network)
    factors = network.get_submodule(family_of(network).word_table)
    dense = whole.get_submodule(family_of(whole).word_table).weight
    with torch.no_grad():
        dense.copy_(factors.table.weight @ factors.projection.weight.T)
    assert torch.allclose(answers(network, ids), answers(whole, ids), atol=1e-5)
    sizes = {name: tensor.numel() for name, tensor in untied_state(network).items()}
    assert max(sizes.values()) < tiny.SIZE * 32  # the dense table is nowhere
    (network(input_ids=ids).logits.sum()).backward()
    assert factors.table.weight.grad.abs().sum() > 0


@families
def test_fake_quantisation_leaves_a_tied_head_tied(family):
    """It multiplies with the rows that are looked up, rounded as they are."""
    network = language_model(family)
    head = tied_head(network)
    FakeQuantize().apply(network)
    table = network.get_submodule(family_of(network).word_table)
    assert network.get_submodule(head).table is table
    assert sum(parameter.shape == table.weight.shape for parameter in network.parameters()) == 1


@families
def test_shared_tensors_are_stored_once_and_shared_again(family, tmp_path):
    network, other = language_model(family), language_model(family)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert aliases(network)
    save_file(
        {name: tensor.contiguous() for name, tensor in untied_state(network).items()}, tmp_path / "weights.safetensors"
    )
    assign(other, load_file(tmp_path / "weights.safetensors"))
    ids = torch.arange(4, 20).view(2, 8)
    assert torch.equal(answers(other, ids), answers(network, ids))
    assert tied_head(other) == tied_head(network)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_tied_language_model_checkpoints_and_resumes(keep, tmp_path):
    """DistilBERT's pre-training trains one; its checkpoint used to end the stage."""
    params = PARAMS.model_copy(update={"keep": keep, "epochs": 2})
    model = with_mask_token(tiny.model("bert"))

    def run(*hooks):
        network, teacher = masked_language_model(), masked_language_model()
        checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
        masking = Masking(model, network, examples(), LanguageModelParams())
        loss = language_loss(teacher, masking, LanguageModelParams())
        fit(network, examples(), 0, loss, params, hooks=[masking, *hooks], checkpoints=checkpoints)
        remove_folder(tmp_path / "checkpoint")
        return weights(network)

    expected = run()
    with pytest.raises(Killed):
        run(KillAt(6))
    assert same(expected, run(KillAt(0)))


@pytest.mark.parametrize(("family", "causal"), [("bert", False), ("gpt2", True), ("llama", True)])
def test_language_models_are_pre_trained_as_their_family_is(family, causal, tmp_path):
    """By the family's table: a GPT-2's class name ends otherwise than a Llama's."""
    language_model(family).config.save_pretrained(tmp_path)
    plain = {"bert": BertForMaskedLM, "gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}[family](
        tiny.CONFIGS[family]()
    )
    plain.save_pretrained(tmp_path)
    network = load_language_model(BaseParams(model=f"dir:{tmp_path}"))
    params = LanguageModelParams(kl_weight=0.0, cosine_weight=0.0)
    masking = None if causal else Masking(with_mask_token(tiny.model(family)), network, examples(), params)
    loss = language_loss(network, masking, params)
    batch = tiny.batch("bert")
    records = loss.forward(network, batch)
    shifted = batch.ids[:, 1:].masked_fill(~batch.mask[:, 1:].bool(), -100)
    assert torch.equal(records.targets[:, :-1], shifted) == causal
    assert bool(torch.isfinite(loss(network, batch)))
