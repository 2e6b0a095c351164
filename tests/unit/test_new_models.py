"""Base models from scratch: the same for a seed, with a vocabulary that holds every text."""

import pytest
import torch

from lissom.errors import InputError
from lissom.models.base import load_base
from lissom.models.config import BaseParams, NewModelParams
from lissom.models.new import CONFIGS, learn_tokenizer
from tests.unit.test_language_modeling import TASK as LANGUAGE
from tests.unit.test_translation import FAMILIES, SHAPE, TASK, pairs_of


def test_a_vocabulary_is_learnt_alike_twice_and_holds_every_text():
    texts = [row.text for row in pairs_of(50)] + ["Schöne Grüße"]
    first, second = (learn_tokenizer(texts, 512, ends=True) for _ in range(2))
    assert first.to_str() == second.to_str() and first.get_vocab_size() <= 512
    for text in ("the red dog", "ein Haus 猫 🐈", "Grüße, the"):
        ids = first.encode(text).ids
        assert ids[-1] == 1 and first.token_to_id("<unk>") not in ids and first.decode(ids) == text


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_new_model_is_the_same_for_a_seed(family):
    task = TASK if family in FAMILIES else LANGUAGE
    params = BaseParams(model=f"new:{family}", shape=SHAPE, max_length=12)
    texts = [row.text for row in pairs_of(40)]
    first, again, other = (
        load_base(params, task, seed, texts=lambda: texts).network.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_what_a_new_model_cannot_be():
    with pytest.raises(InputError, match="allowed: new:bart, new:gpt2"):
        load_base(BaseParams(model="new:bert"), TASK, 0, texts=lambda: ["a"])
    with pytest.raises(InputError, match="knows nothing yet"):
        load_base(BaseParams(model="new:t5"), TASK, 0, needs_head=True, texts=lambda: ["a"])
    with pytest.raises(InputError, match="knows nothing yet"):
        load_base(BaseParams(model="new:t5"), TASK, 0)
    with pytest.raises(InputError, match="no encoder with a decoder"):
        load_base(BaseParams(model="new:llama", shape=SHAPE), TASK, 0, texts=lambda: ["a b"])
    with pytest.raises(ValueError, match="does not divide the width"):
        NewModelParams(width=64, heads=5)
    with pytest.raises(ValueError, match="set shape to null"):
        BaseParams(model="dir:x", shape=SHAPE)
