import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lissom.errors import InputError
from lissom.models.vocabulary import changed_tokens, closed_vocabulary, count_tokens, trim_tokenizer
from tests.unit import tiny

TEXTS = ["the good film", "the plot was not good", "a very dull movie"]


def byte_level_bpe() -> Tokenizer:
    result = Tokenizer(models.BPE())
    result.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    result.train_from_iterator([*TEXTS * 5, "lower lowest newer newest wider widest"], trainer)
    return result


def trimmed(full: Tokenizer) -> Tokenizer:
    ids = [index for text in TEXTS for index in full.encode(text).ids]
    counts = count_tokens(np.array(ids, dtype=np.int32), full.get_vocab_size())
    return trim_tokenizer(full, closed_vocabulary(full, counts, 1))


@pytest.mark.parametrize("make", [tiny.tokenizer, byte_level_bpe, tiny.unigram_tokenizer])
def test_seen_texts_are_tokenised_as_before(make):
    full, small = make(), trimmed(make())
    assert small.get_vocab_size() < full.get_vocab_size()
    for text in TEXTS:
        assert small.encode(text).tokens == full.encode(text).tokens


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_any_text_still_tokenises_with_bpe_losing_nothing(text):
    small = trimmed(byte_level_bpe())
    small.decoder = None
    alphabet = "".join(small.encode(text).tokens)
    assert alphabet == "".join(byte_level_bpe().encode(text).tokens)


@given(st.text(alphabet="abcdefghij xyz", max_size=40))
def test_any_word_of_known_letters_is_spelt_without_unk(text):
    assert "[UNK]" not in trimmed(tiny.tokenizer()).encode(text).tokens


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.unigram_tokenizer])
@given(st.text(max_size=30))
def test_unknown_characters_become_unk_as_before(make, text):
    full, small = make(), trimmed(make())
    unknown = next(token for token in ("[UNK]", "<unk>") if full.token_to_id(token) is not None)
    counts = [item.encode(text).ids.count(item.token_to_id(unknown)) for item in (full, small)]
    assert counts[0] == counts[1]


def test_ids_are_dense_and_special_tokens_follow():
    small = trimmed(tiny.tokenizer())
    assert sorted(small.get_vocab().values()) == list(range(small.get_vocab_size()))
    encoding = small.encode("good", "film")
    assert encoding.tokens == ["[CLS]", "good", "[SEP]", "film", "[SEP]"]
    assert encoding.ids == [small.token_to_id(token) for token in encoding.tokens]
    assert encoding.type_ids == [0, 0, 0, 1, 1]


def test_a_unigram_keeps_its_fixed_tokens_and_counts_unknown_ones():
    full = tiny.unigram_tokenizer()
    counts = count_tokens(np.array(full.encode("the film").ids, dtype=np.int32), full.get_vocab_size())
    kept = closed_vocabulary(full, counts, 1, range(6))
    small = trim_tokenizer(full, kept)
    assert kept[:6] == tuple(range(6)) and small.token_to_id("<pad>") == 1
    assert small.token_to_id("<mask>") == len(kept) - 1 and small.get_vocab_size() == len(kept)
    changed = changed_tokens(full, small, [("the \u00e9 movie", None)])
    assert changed["unknown_before"] == changed["unknown_after"] == 1 and changed["tokens_changed"] == 1


def test_changed_tokens_are_counted():
    full = tiny.tokenizer()
    counted = changed_tokens(full, trimmed(full), [("the poor actor", None), ("the good", "film")])
    assert counted == {
        "tokens": 6, "tokens_changed": 2, "tokens_after": 4 + 4 + 5, "unknown_before": 0, "unknown_after": 0,
    }  # fmt: skip


def test_other_tokenizers_are_refused():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, "<unk>"))
    with pytest.raises(InputError, match="WordLevel tokenizers cannot be trimmed"):
        closed_vocabulary(words, np.zeros(2, dtype=np.int64), 1)
