import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, DistilBertConfig, GPT2Config

from lissom.models.anatomy import anatomy
from lissom.models.edits import FactorizeWordTable, KeepBlocks, KeepHeads
from lissom.models.families import family_of
from tests.unit import tiny


def on_meta(config, factory=AutoModelForSequenceClassification):
    with torch.device("meta"):
        return factory.from_config(config)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BertConfig(), 109_482_240),
        (BertConfig(num_hidden_layers=6), 66_955_008),
        (BertConfig(num_hidden_layers=3), 45_691_392),
        (BertConfig(hidden_size=312, num_hidden_layers=4, intermediate_size=1200), 14_350_248),
        (DistilBertConfig(), 66_362_880),
        (GPT2Config(), 124_439_808),
    ],
)
def test_published_parameter_counts(config, count):
    """The counts that the papers and model cards give."""
    assert on_meta(config, AutoModel).num_parameters() == count


@pytest.mark.parametrize(
    ("width", "attention", "ffn"), [(768, 9.0117, 18.0146), (1024, 16.0156, 32.0195), (1280, 25.0195, 50.0244)]
)
def test_sizes_of_a_block(width, attention, ffn):
    """MiB of one block in float32, biases included: arithmetic on the shapes of its matrices."""
    config = BertConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=width // 64, intermediate_size=4 * width
    )
    block = anatomy(on_meta(config)).blocks[0]
    assert block.attention * 4 / 2**20 == pytest.approx(attention, abs=5e-5)
    assert block.ffn * 4 / 2**20 == pytest.approx(ffn, abs=5e-5)


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_parts_add_up_before_and_after_edits(family):
    model = tiny.model(family)
    width = model.network.get_submodule(family_of(model.network).word_table).embedding_dim
    for edits in ([], [KeepBlocks(kept=(1, 2)), KeepHeads(kept=((0,), (0, 1)))], [FactorizeWordTable(rank=4)]):
        model.edit(tiny.suited(family, edits))
        parts = anatomy(model.network)
        assert parts.total == model.network.num_parameters()
        assert parts.embeddings + parts.attention + parts.ffn + parts.other == parts.total
    assert [block.heads for block in parts.blocks] == [1, 2]
    factorized = family in tiny.able("word_table")
    assert parts.word_table == (4 * (tiny.SIZE + width) if factorized else tiny.SIZE * width)
