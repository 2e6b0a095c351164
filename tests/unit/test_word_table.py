"""A word table shrunk for RoBERTa's relatives, which count the positions of a text from the padding token."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lissom
from lissom.errors import InputError
from lissom.factorize.config import WordTableFactorization
from lissom.factorize.word_table import plan
from lissom.models.compressed import CompressedModel
from tests.unit import tiny

TEXTS = ["the good film", "the plot was not good at all", "dull"]
PARAMS = WordTableFactorization(method="word_table", min_count=1)


def lesson(model: CompressedModel) -> SimpleNamespace:
    tokens = [index for text in TEXTS for index in model.tokenizer.encode(text).ids]
    return SimpleNamespace(texts=lambda _: SimpleNamespace(tokens=np.array(tokens, dtype=np.int32)))


def logits(model: CompressedModel) -> torch.Tensor:
    """Of all texts in one batch, so that the shorter ones are padded."""
    encoded = [model.tokenizer.encode(text).ids for text in TEXTS]
    length = max(map(len, encoded))
    ids = torch.tensor([item + [model.pad_id] * (length - len(item)) for item in encoded])
    mask = torch.tensor([[1] * len(item) + [0] * (length - len(item)) for item in encoded])
    with torch.no_grad():
        return model.network(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_seen_texts_are_answered_as_before(family, tmp_path):
    model = tiny.model(family)
    model.tokenizer = tiny.unigram_tokenizer()
    expected = logits(model)
    recipe = plan(model, lesson(model), PARAMS)
    model.edit(recipe.edits)
    assert [edit.kind for edit in recipe.edits] == ["keep_vocabulary", "keep_positions"]
    assert model.network.config.vocab_size == recipe.facts["vocabulary"] < tiny.unigram_tokenizer().get_vocab_size()
    assert model.pad_id == model.tokenizer.token_to_id("<pad>") == 1
    assert torch.equal(logits(model), expected)
    lissom.save(model, tmp_path / "model")
    assert torch.equal(logits(lissom.load(tmp_path / "model")), expected)


@pytest.mark.parametrize("family", sorted(set(tiny.FAMILY_NAMES) - set(tiny.able("word_table"))))
def test_a_family_whose_table_cannot_be_edited_is_refused_by_the_plan(family):
    model = tiny.model(family)
    with pytest.raises(InputError, match="factorize: not possible with a"):
        plan(model, lesson(model), PARAMS.model_copy(update={"rank": 8}))
