"""Fused layers taken apart answer as transformers' own do, and are on disk what transformers reads."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import lissom
from lissom.errors import InputError
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.edits import KeepHeads
from lissom.models.families import FAMILIES
from lissom.models.fused import fused_state, separate, separated_state
from tests.unit import tiny

fused_families = pytest.mark.parametrize("family", ["gpt2", "modernbert"])


def original(family="gpt2"):
    torch.manual_seed(0)
    config = tiny.CONFIGS[family]()
    config.id2label = dict(enumerate(tiny.TASK.labels))  # a head for other labels would be replaced
    network = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return network


def logits(network):
    batch = tiny.batch(network.config.model_type)
    with torch.no_grad():
        return network(input_ids=batch.ids, attention_mask=batch.mask).logits


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_a_base_in_the_layout_of_transformers_is_loaded(family, tmp_path):
    network = original(family)
    network.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), pad_token="[PAD]").save_pretrained(tmp_path)
    model = load_base(BaseParams(model=f"dir:{tmp_path}", max_length=16), tiny.TASK, seed=0)
    assert torch.allclose(logits(model.network), logits(network), atol=1e-6)


@fused_families
def test_separate_layers_answer_as_the_fused_ones(family):
    network = original(family)
    before = logits(network)
    size = sum(parameter.numel() for parameter in network.parameters())
    assert torch.allclose(logits(separate(network)), before, atol=1e-6)
    assert sum(parameter.numel() for parameter in network.parameters()) == size
    assert not any(type(module).__name__ == "Conv1D" for module in network.modules())


@fused_families
def test_weights_go_there_and_back_to_the_bit(family):
    network = original(family)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    apart = separate(network).state_dict()
    actual = fused_state(apart, FAMILIES[family])
    assert actual.keys() == before.keys() and all(torch.equal(actual[name], before[name]) for name in before)
    again = separated_state(actual, FAMILIES[family])
    assert again.keys() == apart.keys() and all(torch.equal(again[name], apart[name]) for name in apart)


def test_heads_are_cut_out_of_all_three_thirds():
    model = tiny.model("gpt2")
    model.edit([KeepHeads(kept=((1, 2),) * 4)])
    gpt2 = FAMILIES["gpt2"]
    rows = fused_state(model.network.state_dict(), gpt2)["transformer.h.0.attn.c_attn.weight"]
    whole = fused_state(tiny.model("gpt2").network.state_dict(), gpt2)["transformer.h.0.attn.c_attn.weight"]
    assert torch.equal(rows, torch.cat([whole[:, third * 32 + 8 : third * 32 + 24] for third in range(3)], dim=1))


def test_a_base_without_padding_token_pads_with_the_end_of_text(tmp_path):
    network = original()
    network.config.pad_token_id = None
    network.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), eos_token="[SEP]").save_pretrained(tmp_path)
    model = load_base(BaseParams(model=f"dir:{tmp_path}", max_length=16), tiny.TASK, seed=0)
    assert model.pad_id == 2
    lissom.save(model, tmp_path / "saved")
    again = lissom.load(tmp_path / "saved").network
    network.config.pad_token_id = 2
    assert torch.allclose(logits(again), logits(network), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "flag"), [(family, flag) for family in tiny.FAMILY_NAMES for flag in FAMILIES[family].unsupported]
)
def test_a_variant_is_refused(family, flag):
    network = AutoModelForSequenceClassification.from_config(tiny.CONFIGS[family]())
    setattr(network.config, flag, {"type_vocab_size": 2, "attn_logit_softcapping": 50.0}.get(flag, True))
    with pytest.raises(InputError, match=f"{flag}, which lissom does not support"):
        separate(network)
