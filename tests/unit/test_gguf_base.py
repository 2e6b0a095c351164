"""Base models in GGUF files: the same answers as the network that was written, within the error of the file's type."""

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lissom
from lissom.components.preflight import preflight
from lissom.data.batches import collate
from lissom.errors import InputError
from lissom.models.base import load_base, load_language_model
from lissom.models.compressed import logits_of
from lissom.models.config import BaseParams
from lissom.models.directory import file_sha256
from lissom.models.edits import KeepBlocks
from lissom.params import load_params
from lissom.pipelines.assumptions import write_params
from tests.unit import tiny
from tests.unit.test_language_modeling import TASK, tables_of

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def network_of(tied):
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.add_special_tokens(["<|endoftext|>"])  # transformers adds it to every tokenizer of this kind
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, max_position_embeddings=24, pad_token_id=1, bos_token_id=0, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def interleaved(weight, heads):
    """Rows of a query or key projection in the order in which llama.cpp rotates them."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, network, tokenizer, kind=gguf.GGMLQuantizationType.F32):
    config, writer = network.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token, _ in vocabulary]
    )
    writer.add_token_merges(
        [f"{piece[:-1]} {piece[-1]}" for piece, _ in vocabulary if len(piece) > 1 and piece not in special]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            array = interleaved(array, heads) if part in name else array
        target = names.get_name(name, try_suffixes=(".weight",))
        packs = array.ndim > 1 and kind != gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            target, gguf.quants.quantize(array, kind) if packs else array, raw_dtype=kind if packs else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-5), ("Q8_0", 0.02), ("Q4_0", 0.3)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_a_file_answers_as_the_network_did(kind, bound, tied, tmp_path):
    network, tokenizer = network_of(tied)
    write_gguf(tmp_path / "model.gguf", network, tokenizer, gguf.GGMLQuantizationType[kind])
    params = BaseParams(
        model=f"dir:{tmp_path / 'model.gguf'}", max_length=12, sha256=file_sha256(tmp_path / "model.gguf")
    )
    model = load_base(params, TASK, 0)
    assert (
        model.tokenizer.encode("the film was good").ids
        == tokenizer.encode("the film was good", add_special_tokens=False).ids
    )
    data = TASK.encode([tables_of(tmp_path)["dev"]], model.tokenizer, tmp_path / "tokens")
    batch = collate(data, np.arange(6), model.pad_id)
    with torch.no_grad():
        expected = batch.outputs_of(network(input_ids=batch.ids, attention_mask=batch.mask).logits)
        actual = logits_of(model.network, batch)
    assert (actual - expected).abs().max() <= bound * expected.abs().max()
    assert model.manifest.task.chat_template == TEMPLATE and "quantization_config" not in model.manifest.base_config
    model.edit([KeepBlocks(kept=(0, 2))])
    lissom.save(model, tmp_path / "saved")
    assert torch.equal(logits_of(lissom.load(tmp_path / "saved").network, batch), logits_of(model.network, batch))
    if kind == "F32":
        assert load_language_model(params).lm_head.weight.equal(network.lm_head.weight)


def test_files_that_are_not_there_or_others(tmp_path, monkeypatch):
    network, tokenizer = network_of(True)
    write_gguf(tmp_path / "model.gguf", network, tokenizer)
    path = f"dir:{tmp_path / 'model.gguf'}"
    with pytest.raises(InputError, match=r"model\.gguf has sha256"):
        load_base(BaseParams(model=path, max_length=12, sha256="0" * 64), TASK, 0)
    with pytest.raises(InputError, match=r"no folder .*and no file of type \.gguf"):
        load_base(BaseParams(model=f"dir:{tmp_path / 'other.gguf'}", max_length=12), TASK, 0)
    content = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"damaged, or no GGUF file: .*copy or download it again"):
        load_base(BaseParams(model=path, max_length=12), TASK, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"lissom\[gguf\]"):
        load_base(BaseParams(model=path, max_length=12), TASK, 0)


def test_a_file_is_a_model_to_start_from(tmp_path, monkeypatch):
    """`lissom compress model.gguf DATA` writes params for it, and preflight reads no config beside it."""
    network, tokenizer = network_of(True)
    write_gguf(tmp_path / "model.gguf", network, tokenizer)
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = [f"the {word} film\t{label}" for word, label in (("good", "yes"), ("bad", "no")) for _ in range(5)]
        (tmp_path / "data" / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    lines = write_params(
        tmp_path / "params.yaml", "model.gguf", "data", ["factorize.min_count=null", "factorize.rank=16"]
    )
    assert lines[0] == "base.model: dir:model.gguf"
    preflight(load_params(tmp_path / "params.yaml"))
