"""T5 as it is downloaded: gated feed-forward networks, an output projection of its own, blocks that share a bias."""

import copy

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

import lissom
from lissom.errors import InputError
from lissom.export.config import ExportParams
from lissom.export.onnx import export_onnx
from lissom.export.parity import check_parity
from lissom.models.base import load_base
from lissom.models.compressed import logits_of
from lissom.models.config import BaseParams
from lissom.models.edits import FakeQuantize, KeepBlocks, KeepNeurons, LowRank
from lissom.models.new import CONFIGS, learn_tokenizer
from lissom.models.sites import ffn_sites, tied_head
from lissom.models.students import take_stacks
from lissom.prune.importance import gated
from tests.unit.test_translation import SHAPE, TASK, batch_of, model_of, pairs_of, tables_of


def test_what_a_t5_cannot_lose():
    model = model_of("t5")
    with pytest.raises(InputError, match="block 0 of a t5"):
        KeepBlocks(kept=(1, 2), stack="decoder").apply(model.network)
    with pytest.raises(InputError, match="this one has 2"):
        KeepBlocks(kept=(0,)).apply(model.network)


def saved_t5(folder, tied):
    """A T5 with gated feed-forward networks, as transformers writes it."""
    tokenizer = learn_tokenizer([row.text for row in pairs_of(40)], 512, ends=True)
    config = CONFIGS["t5"](SHAPE, tokenizer.get_vocab_size(), 12)
    config.feed_forward_proj, config.is_gated_act, config.dense_act_fn = "gated-gelu", True, "gelu_new"
    torch.manual_seed(0)
    network = AutoModelForSeq2SeqLM.from_config(config)
    if not tied:
        network.config.tie_word_embeddings = False
        network.lm_head.weight = torch.nn.Parameter(torch.randn_like(network.lm_head.weight))
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return BaseParams(model=f"dir:{folder}", max_length=12)


@pytest.mark.parametrize("tied", [True, False])
def test_a_downloaded_t5_with_gated_neurons(tied, tmp_path):
    """As T5 1.1 and Flan-T5 are; those have an output projection of their own, and do not scale what it reads."""
    model, reference = (load_base(saved_t5(tmp_path / "base", tied), TASK, 0) for _ in range(2))
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base").eval()
    whole = batch_of(model, tmp_path)
    with torch.no_grad():
        assert torch.allclose(logits_of(model.network, whole), logits_of(plain, whole), atol=1e-6)
    assert (tied_head(model.network) == "lm_head") == tied
    assert model.manifest.task.start_id == 0
    batch, sites = batch_of(model, tmp_path), ffn_sites(model.network)
    assert all(len(site.inputs) == 2 for site in sites)
    kept = tuple(tuple(range(number, 40)) for number in range(len(sites)))
    gates = [torch.tensor([[float(neuron in neurons) for neuron in range(48)]]) for neurons in kept]
    with gated([reference.network.get_submodule(site.output) for site in sites], gates, 1):
        expected = logits_of(reference.network, batch)
    model.edit([KeepNeurons(kept=kept)])
    assert torch.allclose(logits_of(model.network, batch), expected, atol=1e-5)
    lissom.save(model, tmp_path / "model")
    again = lissom.load(tmp_path / "model")
    assert torch.equal(logits_of(again.network, batch), logits_of(model.network, batch))
    assert (tied_head(again.network) == "lm_head") == tied
    student = take_stacks(again, (0,), (0,))
    (tmp_path / "export").mkdir()
    exported = export_onnx(student, tmp_path / "export")
    data = student.manifest.task.encode([tables_of(tmp_path)["dev"]], student.tokenizer, tmp_path / "dev")
    parity = check_parity(student, exported, data, ExportParams())
    assert parity.max_logit_difference < 1e-4
    for edit in (FakeQuantize(), LowRank(ranks={"decoder.block.0.layer.2.DenseReluDense.wo": 4})):
        edited = copy.deepcopy(student)
        edited.edit([edit])
        lissom.save(edited, tmp_path / edit.kind)
        assert torch.equal(
            logits_of(lissom.load(tmp_path / edit.kind).network, batch), logits_of(edited.network.eval(), batch)
        )
