"""Confidence: the largest attention weight of a token, whatever pads the text."""

from dataclasses import replace

import pytest
import torch

from lissom.errors import InputError
from lissom.models.sites import attention_sites
from lissom.prune.confidence import head_confidence
from tests.unit import test_translation as translation
from tests.unit import tiny

families = pytest.mark.parametrize("family", sorted(set(tiny.able("heads")) & set(tiny.able("scores"))))


def text(family, length=7):
    """One text of `length` tokens."""
    batch = tiny.batch(family, 1, length)
    return replace(batch, inputs={**batch.inputs, "attention_mask": torch.ones(1, length, dtype=torch.int64)})


@families
def test_without_scores_attention_is_even(family):
    """All visible tokens then have the same weight; a causal token sees those before it."""
    network = tiny.model(family).network.eval()
    for site in attention_sites(network):
        for path in (site.query, *site.positions):
            for parameter in network.get_submodule(path).parameters():
                parameter.data.zero_()
    counts = torch.tensor(_visible(network, text(family)))
    for number, block in enumerate(head_confidence(network, [text(family)])):
        assert torch.allclose(block, (1 / counts[number]).mean().expand_as(block), atol=1e-5)


def _visible(network, batch):
    """By block, how many tokens each token but the last one sees."""
    from lissom.models.signals import visible_pairs

    blocks = len(attention_sites(network))
    return [visible_pairs(network, block, batch.mask)[0, 0].sum(-1)[:-1].tolist() for block in range(blocks)]


@families
def test_sharper_scores_are_more_confident(family):
    even, sharp = tiny.model(family).network.eval(), tiny.model(family).network.eval()
    for site in attention_sites(sharp):
        for path in site.norms or (site.query,):
            sharp.get_submodule(path).weight.data.mul_(50)
    for low, high in zip(head_confidence(even, [text(family)]), head_confidence(sharp, [text(family)]), strict=True):
        assert (high > low).all() and (high <= 1 + 1e-6).all()


@families
def test_padding_changes_nothing(family):
    network, alone = tiny.model(family).network.eval(), text(family)
    padded = {name: torch.nn.functional.pad(tensor, (0, 4)) for name, tensor in alone.inputs.items()}
    for one, two in zip(
        head_confidence(network, [alone]), head_confidence(network, [replace(alone, inputs=padded)]), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("family", translation.FAMILIES)
def test_of_an_encoder_decoder_every_attention_has_its_confidence(family, tmp_path):
    """Without scores attention is even, over the words of the text, or over what the decoder has read so far."""
    network = translation.model_of(family).network.eval()
    model = translation.model_of(family)
    batch = translation.batch_of(model, tmp_path, 1)
    sharp = [value.clone() for value in head_confidence(network, [batch])]
    for site in attention_sites(network):
        for parameter in network.get_submodule(site.query).parameters():
            parameter.data.zero_()
    for name, parameter in network.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data.zero_()
    words, read = int(batch.mask.sum()), int(batch.inputs["decoder_attention_mask"].sum())
    causal = sum(1 / (place + 1) for place in range(read)) / read
    for site, even, before in zip(attention_sites(network), head_confidence(network, [batch]), sharp, strict=True):
        own = site.kind == "self" and site.stack == "decoder"
        assert torch.allclose(even, torch.full((4,), causal if own else 1 / words), atol=1e-5)
        assert (before > even).all()
    padded = dict(batch.inputs)
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(padded[name], (0, 3))
    again = head_confidence(network, [replace(batch, inputs=padded)])
    assert all(
        torch.allclose(one, two, atol=1e-5) for one, two in zip(head_confidence(network, [batch]), again, strict=True)
    )


def test_attention_inside_of_blocks_is_refused():
    family = next(name for name in tiny.FAMILY_NAMES if name not in tiny.able("scores"))
    with pytest.raises(InputError, match="scores cannot be captured"):
        head_confidence(tiny.model(family).network, [])
