"""Encoders as GGUF files: llama.cpp gives torch's embeddings for every shape, and the folder for Ollama proves it."""

import json

import gguf
import pytest
import torch
from tokenizers import normalizers

from lissom.data.tables import Row, write_table
from lissom.errors import InputError
from lissom.gguf.card import EmbeddingCard
from lissom.gguf.checks import check_tokens
from lissom.gguf.config import GgufParams
from lissom.gguf.embeddings import closeness, engine_embeddings, torch_embeddings, write_embeddings
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.modelfile import parse
from lissom.models.edits import FactorizeWordTable, FakeQuantize, KeepBlocks, KeepHeads, KeepNeurons
from tests.unit import tiny
from tests.unit.test_gguf_types import assert_quantised_as_by_llama_cpp

FAMILIES = ["bert", "modernbert"]
TEXTS = ("the good film was not bad", "a very DULL story, Caf\u00e9!", "xyz 1234 \u4e2d\u6587 film's", "great")
CLOSE = 1 - 1e-5
"""llama.cpp looks GELU up in a table of half precision."""
families = pytest.mark.parametrize("family", FAMILIES)


def encoder(family, **changes):
    """A classifier whose tokenizer fits its family; its head is no part of the files."""
    if family == "modernbert":
        changes |= {"vocab_size": tiny.byte_level_tokenizer().get_vocab_size(), "bos_token_id": 0, "eos_token_id": 2}
    model = tiny.model(family, **changes)
    if family == "modernbert":
        model.tokenizer = tiny.byte_level_tokenizer()
    for parameter in model.network.parameters():
        if parameter.dim() == 2:  # large enough for a wrong window or position to show
            torch.nn.init.normal_(parameter, 0, 0.25)
    return model


def compared(model, folder, pooling="mean", kind="f32"):
    """The cosines between llama.cpp and torch on texts, the last of them longer than any window."""
    write_gguf(gguf_model(model, pooling), folder / "model.gguf", FILE_TYPES[kind])
    texts = [model.tokenizer.encode(text).ids[:20] for text in (*TEXTS, " ".join(tiny.WORDS[:18]))]
    expected = torch_embeddings(model, texts, pooling)
    return closeness(expected, engine_embeddings(folder / "model.gguf", texts, context=24))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@families
def test_llama_cpp_gives_torchs_embeddings(family, pooling, tmp_path):
    found = compared(encoder(family), tmp_path, pooling)
    assert found.cosine_min > CLOSE and found.texts == 5


def test_a_wrong_window_shows(tmp_path):
    model = encoder("modernbert")
    model.network.config.local_attention = 8
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    model.network.config.local_attention = 4
    texts = [model.tokenizer.encode(" ".join(tiny.WORDS[:18])).ids[:20]]
    other = closeness(torch_embeddings(model, texts, "mean"), engine_embeddings(tmp_path / "model.gguf", texts, 24))
    assert other.cosine_min < 0.99


def test_the_pooling_is_in_the_file(tmp_path):
    model = encoder("bert")
    write_gguf(gguf_model(model, "cls"), tmp_path / "model.gguf", FILE_TYPES["f32"])
    texts = [model.tokenizer.encode(text).ids for text in TEXTS]
    other = closeness(torch_embeddings(model, texts, "mean"), engine_embeddings(tmp_path / "model.gguf", texts, 24))
    assert other.cosine_min < 0.995


@families
def test_pruned_shapes_load(family, tmp_path):
    """Different heads and neurons in every block are padded with zeros; blocks go, of ModernBERT in whole periods."""
    model = encoder(family)
    blocks = (0, 1, 2) if family == "modernbert" else (0, 2, 3)
    heads = ((0,), (0, 1), (1, 2, 3))
    neurons = tuple(tuple(range(start, 33)) for start in (1, 9, 17))
    model.edit([KeepBlocks(kept=blocks), KeepHeads(kept=heads), KeepNeurons(kept=neurons)])
    assert compared(model, tmp_path).cosine_min > CLOSE


def test_a_factorised_word_table_is_merged(tmp_path):
    model = encoder("bert")
    model.edit([FactorizeWordTable(rank=8)])
    assert compared(model, tmp_path).cosine_min > CLOSE


@pytest.mark.parametrize("width", [256, 64])
@families
def test_types_and_bytes_are_those_of_llama_cpps_own_quantiser(family, width, tmp_path):
    model = encoder(family, hidden_size=width, intermediate_size=2 * width)
    for name in ("q8_0", "q5_0", "q4_k_m", "q2_k"):
        assert_quantised_as_by_llama_cpp(model, name, tmp_path)


def test_wordpieces_are_the_tokenizers(tmp_path):
    model = encoder("bert")
    write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["f32"])
    check_tokens(
        tmp_path / "model.gguf", model.tokenizer, [*TEXTS, "  two  spaces\n\tand (all) this...", "\u00c9\u00c8 unfilm"]
    )
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.get_field("tokenizer.ggml.bos_token_id").contents() == model.tokenizer.token_to_id("[CLS]")
    model.tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    with pytest.raises(InputError, match="lowercases texts"):
        gguf_model(model)


def test_what_llama_cpp_cannot_hold_is_refused():
    quantised = encoder("bert")
    quantised.edit([FakeQuantize()])
    with pytest.raises(InputError, match=r"quantize\.method: gguf or none"):
        gguf_model(quantised)
    shifted = encoder("modernbert")
    shifted.edit([KeepBlocks(kept=(0, 3))])
    with pytest.raises(InputError, match="the first of every 3 blocks of modern-bert for a global one"):
        gguf_model(shifted)


def folder_of(model, folder, **changes):
    table = write_table(folder / "texts.arrow", [Row(text, None, None) for text in TEXTS])
    train = model.manifest.task.encode([table], model.tokenizer, folder / "tokens")
    (folder / "ollama").mkdir()
    params = GgufParams(types=("q8_0", "q4_0"), name="tiny-embed", **changes)
    return write_embeddings(model, folder / "ollama", train, TEXTS, params)


def test_the_folder_holds_files_proof_and_commands(tmp_path):
    card, place = folder_of(encoder("bert"), tmp_path, license="mit"), tmp_path / "ollama"
    assert sorted(path.name for path in place.iterdir()) == [
        "Modelfile", "Modelfile.q4_0", "Modelfile.q8_0", "README.md", "card.json", "card.md", "tiny-embed-q4_0.gguf", "tiny-embed-q8_0.gguf",
    ]  # fmt: skip
    assert EmbeddingCard.model_validate(json.loads((place / "card.json").read_text())) == card
    assert card.f32.cosine_min > CLOSE and card.f32.cosine_min > card.files[0].agreement.cosine_min
    assert card.files[0].agreement.cosine_mean > card.files[1].agreement.cosine_mean > 0.9
    modelfile = parse((place / "Modelfile").read_text())
    assert (modelfile.source, modelfile.license) == ("./tiny-embed-q8_0.gguf", "mit")
    assert dict(modelfile.parameters) == {"num_ctx": card.context}
    assert '"model": "tiny-embed"' in (place / "README.md").read_text()


def test_a_type_below_its_bound_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"q4_0 has a cosine of .* allowed are 0\.99999 or more"):
        folder_of(encoder("bert"), tmp_path, min_cosine={"q4_0": 0.99999})


def test_a_damaged_tensor_shows(tmp_path):
    model = encoder("bert")
    assert compared(model, tmp_path).cosine_min > CLOSE
    place = next(t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors if t.name == "blk.1.ffn_up.weight")
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.seek(int(place.data_offset))
        file.write(b"\x00" * 2000)
    texts = [model.tokenizer.encode(text).ids for text in TEXTS]
    damaged = engine_embeddings(tmp_path / "model.gguf", texts, context=24)
    assert closeness(torch_embeddings(model, texts, "mean"), damaged).cosine_min < 0.999
