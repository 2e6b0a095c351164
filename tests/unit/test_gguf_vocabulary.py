"""Vocabularies of GGUF files: llama.cpp has the tokenizer's tokens, or it is refused."""

import gguf
import pytest
from tokenizers import Regex, pre_tokenizers

from lissom.errors import InputError
from lissom.gguf.checks import check_tokens
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.vocabulary import SPLITS
from lissom.models.new import learn_tokenizer
from tests.unit import tiny
from tests.unit.test_gguf import TEXTS, model_of


@pytest.mark.parametrize("steps", SPLITS, ids=SPLITS.values())
def test_every_split_gives_the_tokenizers_tokens(steps, tmp_path):
    """On spaces, digits, contractions, scripts and emoji; the name in the file is the only thing that differs."""
    parts = {
        "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    }.get(
        SPLITS[steps],
        [
            *(pre_tokenizers.Split(Regex(step), "isolated") for step in steps),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ],
    )
    model = model_of("llama")
    model.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    texts = [
        "  two  spaces\n\nlines\t tabs \n x",
        "1234.5 don't WE'LL x1 12345",
        "\u00e9\u4e2d\U0001f642 \ufb01 \u2082\u00bd",
        " ",
        "The film, good!?",
        "camelCase XMLParser https://x.y/z/\nÉcole",
        *TEXTS,
    ]
    check_tokens(tmp_path / "model.gguf", model.tokenizer, texts, ends=[2])
    assert gguf.GGUFReader(tmp_path / "model.gguf").get_field("tokenizer.ggml.pre").contents() == SPLITS[steps]


def test_a_new_models_tokens_are_llama_cpps(tmp_path):
    """The vocabulary that `new:llama` learns keeps every space and line end."""
    tokenizer = learn_tokenizer([" ".join(tiny.WORDS)] * 20 + ["def f(x):\n    return x\n"] * 20, 300, ends=False)
    model = model_of("llama", vocab_size=tokenizer.get_vocab_size(), pad_token_id=0, bos_token_id=1, eos_token_id=1)
    model.tokenizer = tokenizer
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    texts = ["def g(y):\n\n        return  y\n", *TEXTS]
    check_tokens(tmp_path / "model.gguf", tokenizer, texts)
    assert [tokenizer.decode(tokenizer.encode(text).ids) for text in texts] == texts


def test_tokenizers_that_llama_cpp_lacks_are_refused():
    pieces = model_of("llama")
    pieces.tokenizer = learn_tokenizer(["the film"], 300, ends=True)
    with pytest.raises(InputError, match=r"changes it first \(NFKC\)"):
        gguf_model(pieces)
    scored = model_of("llama")
    scored.tokenizer = tiny.unigram_tokenizer()
    with pytest.raises(InputError, match="this one is Unigram"):
        gguf_model(scored)
    other = model_of("llama")
    other.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False)]
    )
    with pytest.raises(InputError, match="no split like"):
        gguf_model(other)
