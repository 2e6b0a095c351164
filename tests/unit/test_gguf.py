"""GGUF files: llama.cpp gives torch's logits for every family and every shape, and reads what was written."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lissom.errors import InputError
from lissom.gguf.architecture import ARCHITECTURES, interleave
from lissom.gguf.checks import check_tokens
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.compressed import CompressedModel
from lissom.models.edits import (
    FactorizeWordTable,
    FakeQuantize,
    HalfWeights,
    KeepBlocks,
    KeepChannels,
    KeepHeads,
    KeepNeurons,
    KeepVocabulary,
    Kronecker,
    LowRank,
    ProductQuantize,
    TensorTrain,
)
from lissom.models.families import FAMILIES
from lissom.models.fused import separate
from lissom.models.manifest import Manifest
from lissom.models.sites import attention_sites, projections_of
from lissom.models.vocabulary import closed_vocabulary
from lissom.tasks.language_modeling import LanguageModeling
from tests.unit import tiny

TASK = LanguageModeling(name="texts", pair=False, max_length=24)
TEXTS = ("the good film was not bad", "a very dull story", "xyz the  film 1234 \u00e9\u4e2d")
LANGUAGE_MODELS = sorted(family for family, architecture in ARCHITECTURES.items() if not architecture.encoder)
families = pytest.mark.parametrize("family", LANGUAGE_MODELS)


def model_of(family, tied=True, **changes):
    """A small language model with a byte-level tokenizer, and weights of a size at which mistakes show."""
    tokenizer = tiny.byte_level_tokenizer()
    config = tiny.CONFIGS[family]()
    changes = {
        "vocab_size": tokenizer.get_vocab_size() + 3,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    } | changes
    if family == "gemma3_text":  # llama.cpp's Gemma 3 has a global block after five local ones
        changes |= {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
    config = type(config)(**(config.to_dict() | changes | {"tie_word_embeddings": tied}))
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in network.named_parameters():
        mean = 1.0 if "norm" in name or "ln_" in name else 0.0
        torch.nn.init.normal_(parameter, mean, 0.2 * (32 / config.hidden_size) ** 0.5)
    manifest = Manifest(base="tiny", base_sha256=None, base_config=config.to_dict(), task=TASK)
    return CompressedModel(separate(network), tokenizer, {}, manifest)


def torch_logits(model, ids):
    with torch.no_grad():
        return model.network(input_ids=torch.tensor([ids])).logits[0].numpy()


def difference(model, folder, length=20):
    """The largest difference of any logit between torch and llama.cpp, in units of torch's largest."""
    write_gguf(gguf_model(model), folder / "model.gguf", FILE_TYPES["f32"])
    opened = LlamaCpp(folder / "model.gguf", context=24, threads=1)
    ids = np.random.default_rng(0).integers(0, model.network.config.vocab_size, length).tolist()
    expected = torch_logits(model, ids)
    return np.abs(opened.logits(ids) - expected).max() / np.abs(expected).max()


def bound(family):
    """llama.cpp looks GELU up in a table of half precision."""
    return 3e-3 if family.startswith(("gemma", "gpt2")) else 1e-5


def length_for(family):
    """The window of attention bounds the context of architectures that know none."""
    return 4 if family in ("mistral", "qwen2") else 20


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@families
def test_llama_cpp_gives_torchs_logits(family, tied, tmp_path):
    model = model_of(family, tied)
    if family == "gemma2" and not tied:
        with pytest.raises(InputError, match=r"gemma2 has no tensor for lm_head\.weight"):
            gguf_model(model)
        return
    assert difference(model, tmp_path, length_for(family)) < bound(family)


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@families
def test_pruned_shapes_load_and_answer(family, uneven, tmp_path):
    """Fewer blocks, heads and neurons; different ones in every block where llama.cpp can hold them, else padded."""
    model = model_of(family)
    blocks, units = (
        len(model.network.base_model.layers if family != "gpt2" else model.network.transformer.h),
        4 if family == "gpt2" else 2,
    )
    kept = tuple(range(blocks)) if family.startswith("gemma") else (0, 2, 3)
    heads = [(0,) if not uneven or block % 2 else tuple(range(units)) for block in range(len(kept))]
    neurons = [tuple(range(1, 17 if uneven and block == 1 else 33)) for block in range(len(kept))]
    model.edit([KeepBlocks(kept=kept), KeepHeads(kept=tuple(heads)), KeepNeurons(kept=tuple(neurons))])
    assert difference(model, tmp_path, length_for(family)) < bound(family)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    name = ARCHITECTURES[family].uneven if uneven and ARCHITECTURES[family].uneven else ARCHITECTURES[family].name
    assert reader.get_field("general.architecture").contents() == name
    if not uneven:  # where llama.cpp needs heads as wide as the hidden size, they are padded with zeros
        whole = units if ARCHITECTURES[family].all_heads else 1
        per_unit = 1 if family == "gpt2" else 2
        assert reader.get_field(f"{name}.attention.head_count").contents() == whole * per_unit
    if name == "deci":
        assert reader.get_field("deci.feed_forward_length").contents() == [32, 16, 32]
        assert reader.get_field("deci.attention.head_count_kv").contents() == [2, 1, 2]


@pytest.mark.parametrize(
    ("family", "tied"),
    [(family, tied) for family in LANGUAGE_MODELS for tied in (True, False) if tied or not family.startswith("gemma")],
)
def test_fewer_tokens_load_and_answer(family, tied, tmp_path):
    model = model_of(family, tied)
    used = np.bincount(model.tokenizer.encode("the good film was").ids, minlength=model.network.config.vocab_size)
    model.edit([KeepVocabulary(kept=closed_vocabulary(model.tokenizer, used, 1))])
    assert difference(model, tmp_path, length_for(family)) < bound(family)
    check_tokens(tmp_path / "model.gguf", model.tokenizer, TEXTS, [model.network.config.eos_token_id])


@families
def test_fewer_hidden_channels_load_and_answer(family, tmp_path):
    """Where llama.cpp divides the hidden size by the number of heads, as many heads must go."""
    model = model_of(family)
    width = model.network.config.hidden_size
    narrow = KeepChannels(kept=tuple(range(1, width // 2 + 1)))
    if family.startswith("gemma"):
        model.edit([narrow])
        with pytest.raises(InputError, match="root of the hidden size"):
            gguf_model(model)
        return
    if ARCHITECTURES[family].all_heads:
        wide = model_of(family)
        wide.edit([narrow])
        with pytest.raises(InputError, match="no more heads than fit"):
            gguf_model(wide)
        units = 4 if family == "gpt2" else 2
        sites = len(attention_sites(model.network))
        model.edit([KeepHeads(kept=(tuple(range(units // 2)),) * sites)])
    model.edit([narrow])
    assert difference(model, tmp_path, length_for(family)) < bound(family)
    field = gguf.GGUFReader(tmp_path / "model.gguf").get_field(f"{ARCHITECTURES[family].name}.embedding_length")
    assert field.contents() == width // 2


@pytest.mark.parametrize("edit", ["rank", "products", "trains", "codes", "halves"])
@families
def test_factors_are_multiplied_out_and_codes_become_floats(family, edit, tmp_path):
    model = model_of(family)
    ffn, attention = (projections_of(model.network, part) for part in ("ffn", "attention"))
    scaled = FAMILIES[family].scaled_word_table  # such a table is not edited
    edits = {
        "rank": [LowRank(ranks=dict.fromkeys(ffn, 8)), *([] if scaled else [FactorizeWordTable(rank=8)])],
        "products": [Kronecker(shapes=dict.fromkeys(attention, (2, 4)), table=None if scaled else 4)],
        "trains": [TensorTrain(cores=2, ranks=dict.fromkeys(ffn, 4), table=None if scaled else 6)],
        "codes": [ProductQuantize(codes=16, ffn=4, attention=2, table=4)],
        "halves": [HalfWeights()],
    }
    model.edit(edits[edit])
    assert difference(model, tmp_path, length_for(family)) < bound(family)


def test_llama_3s_positions(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    }
    model = model_of("llama", rope_parameters=rope)
    assert difference(model, tmp_path) < 1e-5
    with pytest.raises(InputError, match="positions of type yarn"):
        gguf_model(model_of("llama", rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_stretched_positions(family, tmp_path):
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
    if family == "gemma3_text":  # as Gemma 3 has them from 4B on: blocks with a window are left alone
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    model = model_of(family, rope_parameters=rope)
    assert difference(model, tmp_path) < bound(family)
    plain = torch_logits(model_of(family), list(range(9)))
    assert np.abs(torch_logits(model, list(range(9))) - plain).max() > 1e-3, "the factor matters"
    if family == "gemma3_text":
        everywhere = {name: {**values, **rope["full_attention"]} for name, values in rope.items()}
        with pytest.raises(InputError, match="positions of type linear"):
            gguf_model(model_of(family, rope_parameters=everywhere))


def test_biases_of_llamas(tmp_path):
    assert difference(model_of("llama", attention_bias=True, mlp_bias=True), tmp_path) < 1e-5


@pytest.mark.parametrize("heads", [1, 3])
def test_interleaving_is_a_permutation_of_rows(heads):
    weight = torch.randn(heads * 8, 5)
    rows = interleave(torch.arange(heads * 8.0), heads)
    assert torch.equal(interleave(weight, heads), weight[rows.long()])
    assert rows[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_what_llama_cpp_cannot_hold_is_refused():
    with pytest.raises(InputError, match="runs language models, and encoders for embeddings; this llama predicts"):
        gguf_model(tiny.model("llama"))
    with pytest.raises(InputError, match="models of type 'distilbert' are not supported; supported: llama, mistral"):
        gguf_model(tiny.model("distilbert"))
    quantised = model_of("llama")
    quantised.edit([FakeQuantize()])
    with pytest.raises(InputError, match=r"quantize\.method: gguf or none"):
        gguf_model(quantised)
    gemma = model_of("gemma2")
    gemma.edit([KeepBlocks(kept=(0, 2, 3))])
    with pytest.raises(InputError, match="last of every 2 blocks of gemma2 for a global one"):
        gguf_model(gemma)


def test_the_reader_finds_what_was_written(tmp_path):
    model = model_of("llama")
    write_gguf(
        gguf_model(model),
        tmp_path / "model.gguf",
        FILE_TYPES["f32"],
        metadata={"general.name": "tiny", "general.license": "apache-2.0"},
    )
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.name"] == "tiny" and fields["general.license"] == "apache-2.0"
    assert fields["general.quantization_version"] == 2 and fields["general.file_type"] == 0
    assert fields["tokenizer.ggml.eos_token_id"] == 2 and fields["tokenizer.ggml.padding_token_id"] == 1
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)
    ends = [tensor.data_offset + tensor.n_bytes for tensor in reader.tensors]
    assert all(end <= tensor.data_offset for end, tensor in zip(ends, reader.tensors[1:], strict=False))
    assert 0 <= (tmp_path / "model.gguf").stat().st_size - ends[-1] < 32
    assert list(tmp_path.iterdir()) == [tmp_path / "model.gguf"]
    unpermuted = interleave(model.network.model.layers[1].self_attn.k_proj.weight, 2)
    stored = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_k.weight")
    assert np.array_equal(stored.data, unpermuted.detach().numpy()) and list(stored.shape) == [32, 16]
