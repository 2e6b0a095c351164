"""Neighbours by word vectors, and the words of several tokens that they stand in for."""

import gzip

import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from lissom.distill.augment import candidates
from lissom.distill.word_vectors import WordVectors
from lissom.errors import InputError
from tests.unit import tiny

LINES = ["film 1 0 0", "movie 0.9 0.1 0", "zebra 0 1 0", "horse 0.1 2 0", "plot 0.5 0 0.5"]


def write(path, lines=LINES):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_neighbours_come_by_cosine_the_word_itself_first(tmp_path):
    vectors = WordVectors(write(tmp_path / "v.txt"), "key")
    assert vectors.nearest("Zebra", 2) == ["zebra", "horse"]  # longer, but the same way
    assert vectors.nearest("film", 3) == ["film", "movie", "plot"]
    assert vectors.nearest("unknown", 3) == []


def test_compressed_files_are_read(tmp_path):
    with gzip.open(tmp_path / "v.txt.gz", "wt") as file:
        file.write("\n".join(LINES))
    assert WordVectors(tmp_path / "v.txt.gz", "key").nearest("film", 1) == ["film"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["film 1 0", "movie 1"], "line 2: 1 numbers, line 1 has 2"),
        (["film a b"], "line 1: not a word and its numbers"),
        (["film"], "line 1: 0 numbers"),
    ],
)
def test_damaged_files_are_refused_with_the_line(lines, message, tmp_path):
    with pytest.raises(InputError, match=message):
        WordVectors(write(tmp_path / "v.txt", lines), "key")
    with pytest.raises(InputError, match=r"distill\.augmentation\.word_vectors .*no such file"):
        WordVectors(tmp_path / "none.txt", "distill.augmentation.word_vectors")


def test_words_of_several_tokens_get_their_neighbours(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(tiny.CONFIGS["bert"]()).eval()
    result = tiny.tokenizer()
    result.add_special_tokens(["[MASK]"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=result, pad_token="[PAD]", mask_token="[MASK]", sep_token="[SEP]"
    )
    model.resize_token_embeddings(len(tokenizer))
    vectors = WordVectors(write(tmp_path / "v.txt"), "key")
    words = ["the", "zebra", "film", "2"]
    actual = candidates(words, model, tokenizer, 2, vectors)
    assert actual[0] == ["the"] and actual[3] == ["2"]  # a function word, and no word
    assert actual[1] == ["zebra", "horse"]
    assert candidates(words, model, tokenizer, 2)[1] == ["zebra"]
