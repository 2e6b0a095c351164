"""A vocabulary of the domain's own: fewer tokens, nothing unknown, vectors from the old pieces."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lissom.errors import InputError
from lissom.factorize.config import WordTableFactorization
from lissom.factorize.plan import plan
from lissom.models.compressed import logits_of
from lissom.models.directory import load, save
from lissom.models.edits import NewVocabulary
from lissom.models.families import family_of
from lissom.models.new_vocabulary import learn_pieces, old_pieces, with_pieces
from lissom.training.compress import compress
from lissom.training.lesson import Lesson
from lissom.training.teacher import LiveTeacher
from tests.unit import tiny
from tests.unit.distill.recipes import SHORT, tables_in

TEXTS = ["the good filmographies were unforgettable"] * 5 + ["a filmography, very unforgettable indeed"] * 5
TOKENIZERS = {"wordpiece": tiny.tokenizer, "bpe": tiny.byte_level_tokenizer}
tokenizers = pytest.mark.parametrize("kind", TOKENIZERS)


@pytest.fixture
def lesson(tmp_path):
    return Lesson(tables=tables_in(tmp_path / "tables"), scratch=tmp_path)


def learnt(kind, size=400):
    tokenizer = TOKENIZERS[kind]()
    tokens, merges = learn_pieces(tokenizer, TEXTS, size)
    return tokenizer, with_pieces(tokenizer, tokens, merges), tokens, merges


@tokenizers
def test_texts_of_the_domain_need_fewer_tokens(kind):
    before, after, *_ = learnt(kind)
    for text in TEXTS:
        assert len(after.encode(text).ids) < len(before.encode(text).ids)
        assert "[UNK]" not in after.encode(text).tokens


@tokenizers
@settings(deadline=None, max_examples=40)
@given(text=st.text(alphabet="abcdefghijklmnopqrstuvwxyz .,'", max_size=40))
def test_what_could_be_read_can_be_read(kind, text):
    before, after = CASES[kind][:2]
    unknown = [tokenizer.encode(text).tokens.count("[UNK]") for tokenizer in (before, after)]
    assert unknown[1] <= unknown[0]
    if kind == "bpe":
        assert after.decode(after.encode(text).ids) == text


CASES = {kind: learnt(kind) for kind in TOKENIZERS}


@tokenizers
def test_special_tokens_stay(kind):
    before, after, tokens, _ = learnt(kind)
    specials = {token["content"] for token in json.loads(before.to_str())["added_tokens"]}
    assert specials == {token["content"] for token in json.loads(after.to_str())["added_tokens"]}
    assert tokens[: len(specials)] == sorted(specials, key=before.token_to_id)
    ends = [tokenizer.encode("the film").tokens for tokenizer in (before, after)]
    assert ends[0][0] == ends[1][0] and ends[0][-1] == ends[1][-1]


@tokenizers
def test_learning_twice_gives_the_same(kind):
    assert learnt(kind)[2:] == learnt(kind)[2:]


def test_no_more_tokens_than_asked_for():
    tokenizer = tiny.tokenizer()
    fewest = len(learn_pieces(tokenizer, TEXTS, 1)[0])  # special tokens and characters
    assert len(learn_pieces(tokenizer, TEXTS, fewest + 7)[0]) == fewest + 7


def test_old_pieces_of_new_tokens():
    tokenizer = tiny.tokenizer()
    for token, pieces in zip(CASES["wordpiece"][2], old_pieces(tokenizer, CASES["wordpiece"][2]), strict=True):
        spelt = "".join(tokenizer.id_to_token(piece).removeprefix("##") for piece in pieces)
        assert not pieces or spelt == token.removeprefix("##")
    assert old_pieces(tokenizer, ["[CLS]", "good", "##zzqq\u4e2d"]) == [
        (tokenizer.token_to_id("[CLS]"),), (tokenizer.token_to_id("good"),), (),
    ]  # fmt: skip


@pytest.mark.parametrize("family", sorted(tiny.able("word_table")))
def test_every_family_gets_it_and_is_reloaded(family, lesson, tmp_path):
    model, batch = tiny.model(family), tiny.batch(family, 2, 7)
    kind = json.loads(model.tokenizer.to_str())["model"]["type"]
    params = WordTableFactorization(method="word_table", vocabulary=300, min_count=None, training=None)
    task = model.manifest.task
    if kind == "Unigram" or task.continues_texts or task.writes_texts:
        with pytest.raises(InputError, match=r"factorize\.vocabulary"):
            plan(model, lesson, params)
        return
    old = model.network.get_submodule(family_of(model.network).word_table).weight.detach().clone()
    recipe = plan(model, lesson, params)
    model.edit(recipe.edits)
    edit = recipe.edits[0]
    rows = model.network.get_submodule(family_of(model.network).word_table).weight
    for number, pieces in enumerate(edit.pieces):
        if pieces:
            assert torch.allclose(rows[number], old[list(pieces)].mean(0), atol=1e-6)
    assert model.tokenizer.get_vocab_size() == len(rows) == model.network.config.vocab_size
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(logits_of(again.network, batch), logits_of(model.network.eval(), batch))
    assert again.tokenizer.to_str() == model.tokenizer.to_str()


def test_it_is_learnt_trimmed_and_trained(lesson):
    params = WordTableFactorization.model_validate(
        {"method": "word_table", "vocabulary": 300, "min_count": 2, "rank": 8, "training": SHORT}
    )
    model = tiny.model("bert")
    recipe = plan(model, lesson, params)
    compress(model, recipe, lesson, LiveTeacher(tiny.model("bert").network), params.training)
    assert model.tokenizer.get_vocab_size() < len(recipe.edits[0].tokens) <= 300
    assert [edit.kind for edit in model.manifest.edits][:2] == ["new_vocabulary", "keep_vocabulary"]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [(((0,), (10**6,)), "not among the"), (((5,), (6,)), "pad_token_id 0 is not among the kept tokens")],
)
def test_what_does_not_fit_is_refused(pieces, message):
    with pytest.raises(InputError, match=message):
        tiny.model("bert").edit([NewVocabulary(tokens=("a", "b"), pieces=pieces)])
    with pytest.raises(ValidationError, match="need as many lists"):
        NewVocabulary(tokens=("a", "a"), pieces=((0,), (1,)))
