"""Sites: every place where a network can be cut, cross-attention among them, for a family that the table does not have."""

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification

from lissom.errors import InputError
from lissom.models.anatomy import anatomy
from lissom.models.edits import KeepHeads, KeepNeurons
from lissom.models.families import FAMILIES
from lissom.models.family import AttentionSite, Family, FfnSite, Stack
from lissom.models.sites import attention_sites, blocks_of, ffn_sites
from lissom.prune.first_order import select
from lissom.prune.importance import gated, head_importance, neuron_importance
from tests.unit import tiny


def attention(name: str, kind="self") -> AttentionSite:
    return AttentionSite(name, f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj", f"{name}.out_proj", kind)


FEED = FfnSite(("fc1",), "fc2")
ENCODER_DECODER = Family(
    stacks=(
        Stack("model.encoder.layers", (attention("self_attn"),), (FEED,), "encoder_layers", "encoder_ffn_dim", title="encoder"),
        Stack("model.decoder.layers", (attention("self_attn"), attention("encoder_attn", "cross")), (FEED,), "decoder_layers",
              "decoder_ffn_dim", title="decoder"),
    ),
    word_table="model.shared", embeddings="model.shared", head=("classification_head",),
    classifier="classification_head.out_proj",
)  # fmt: skip


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(FAMILIES, "bart", ENCODER_DECODER)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=tiny.SIZE, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=40, max_position_embeddings=24, num_labels=3,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    result = BartForSequenceClassification(config).eval()
    for parameter in result.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return result


@pytest.fixture
def batch():
    result = tiny.batch("bert", size=4, length=7)
    result.inputs["attention_mask"][:] = 1
    result.ids[result.ids == 2] = 5
    result.ids[:, -1] = 2  # BART classifies by its end-of-text token
    return result


def answers(network, batch):
    return network(input_ids=batch.ids, attention_mask=batch.mask).logits


def test_cross_attention_is_a_site_like_any_other(network):
    actual = attention_sites(network)
    assert [site.name for site in actual] == [
        "encoder block 0", "encoder block 1",
        "decoder block 0", "decoder block 0, cross-attention", "decoder block 1", "decoder block 1, cross-attention",
        "decoder block 2", "decoder block 2, cross-attention",
    ]  # fmt: skip
    assert [site.kind for site in actual].count("cross") == 3
    assert [network.get_submodule(site.output).in_features for site in ffn_sites(network)] == [24, 24, 40, 40, 40]
    parts = anatomy(network)
    assert [block.heads for block in parts.blocks] == [4, 4, 8, 8, 8]
    assert parts.embeddings + parts.attention + parts.ffn + parts.other == parts.total
    with pytest.raises(InputError, match="this one has 2"):
        blocks_of(network)


@pytest.mark.parametrize("part", ["heads", "neurons"])
def test_gate_zero_equals_removal_at_every_site(network, batch, part):
    if part == "heads":
        sites, units = attention_sites(network), [4] * 8
        edit = KeepHeads(kept=((0,), (1, 2), (0, 3), (2,), (1,), (0, 1, 2), (3,), (0, 2)))
    else:
        sites, units = ffn_sites(network), [24, 24, 40, 40, 40]
        edit = KeepNeurons(kept=((3,), tuple(range(20)), (0, 39), tuple(range(5, 30)), (7, 8)))
    projections = [network.get_submodule(site.output) for site in sites]
    gates = [
        torch.zeros(1, count).index_fill(1, torch.tensor(kept), 1.0)
        for count, kept in zip(units, edit.kept, strict=True)
    ]
    with torch.no_grad(), gated(projections, gates, projections[0].in_features // units[0]):
        masked = answers(network, batch)
    edit.apply(network)
    with torch.no_grad():
        assert torch.allclose(answers(network, batch), masked, atol=1e-5)


def test_importance_is_measured_at_every_site(network, batch, monkeypatch):
    monkeypatch.setattr("lissom.prune.importance.logits_of", answers)
    heads = head_importance(network, [batch], tiny.TASK.loss)
    neurons = neuron_importance(network, [batch], tiny.TASK.loss)
    assert [len(scores) for scores in heads] == [4] * 8 and all(bool((scores > 0).any()) for scores in heads)
    assert [len(scores) for scores in neurons] == [24, 24, 40, 40, 40]
    KeepHeads(kept=select(heads, 0.5, 1, uniform=False)).apply(network)
    assert sum(network.get_submodule(site.output).in_features for site in attention_sites(network)) == 16 * 8
