"""Which compressed models plain transformers loads, and that it refuses the others."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lissom
from lissom.models.edits import KeepBlocks, KeepChannels, KeepNeurons
from lissom.models.edits.edit import StructureEdit
from lissom.models.families import FAMILIES
from lissom.models.patterned import has_windows
from tests.unit import tiny
from tests.unit.test_edits import BLOCKS, HEADS_OF_FOUR, QUANTIZE, TABLE, VOCABULARY, families, logits


@families
def test_uniform_results_load_in_plain_transformers(family, tmp_path):
    model = tiny.model(family)
    # MobileBERT's config has one number of neurons for several networks of a block, of which one is cut.
    neurons = [] if family == "mobilebert" else [KeepNeurons(kept=(tuple(range(16)),) * 3)]
    model.edit(tiny.suited(family, [BLOCKS, *neurons, VOCABULARY]))
    lissom.save(model, tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    expected = logits(model, family)
    model.network = plain
    if FAMILIES[family].fused or has_windows(plain):  # one product, and one window, round otherwise than their parts
        assert torch.allclose(logits(model, family), expected, atol=1e-6)
    else:
        assert torch.equal(logits(model, family), expected)


@pytest.mark.parametrize("family", [name for name in tiny.FAMILY_NAMES if FAMILIES[name].grouped])
def test_fewer_hidden_channels_load_where_the_config_has_the_width_of_heads(family, tmp_path):
    model = tiny.model(family)
    model.edit([KeepChannels(kept=tuple(range(20)))])
    expected = logits(model, family)
    lissom.save(model, tmp_path / "model")
    if FAMILIES[family].scaled_word_table:  # by the hidden size, which is another one now
        with pytest.raises(ValueError, match="lissom-gemma"):
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
        return
    model.network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(logits(model, family), expected)


def test_a_network_whose_first_block_differs_is_plain_only_with_it(tmp_path):
    model = tiny.model("modernbert")
    model.edit([KeepBlocks(kept=(1, 3))])
    expected = logits(model, "modernbert")
    lissom.save(model, tmp_path / "model")
    assert torch.equal(logits(lissom.load(tmp_path / "model"), "modernbert"), expected)
    with pytest.raises(ValueError, match="lissom-modernbert"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")


def test_an_edit_is_not_plain_unless_it_says_so():
    class Forgotten(StructureEdit):
        kind: str = "forgotten"

        def apply(self, network):
            """Change nothing."""

        def describe(self):
            return "forgotten"

    assert not Forgotten().is_plain(tiny.model("bert").network)


@pytest.mark.parametrize(
    ("family", "edit"),
    [
        ("bert", TABLE),
        ("bert", HEADS_OF_FOUR),
        ("bert", QUANTIZE),
        ("bert", KeepChannels(kept=tuple(range(16)))),
        ("bert", KeepNeurons(kept=((1,), (2,), (3,), (4, 5)))),
        ("mobilebert", KeepNeurons(kept=(tuple(range(16)),) * 4)),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_other_results_are_refused_by_plain_transformers(family, edit, tmp_path):
    model = tiny.model(family)
    model.edit([edit])
    lissom.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=f"lissom-{family}"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
