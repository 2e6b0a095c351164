"""Types of GGUF files: every tensor's type and every byte are llama.cpp's own."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from lissom.errors import InputError
from lissom.gguf.encode import encode
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from tests.unit.test_gguf import model_of, torch_logits


def assert_quantised_as_by_llama_cpp(model, name, folder):
    """Compare the type and the bytes of every tensor with those of llama.cpp's own quantiser."""
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    source, number = gguf_model(model), FILE_TYPES[name].number
    write_gguf(source, folder / "f32.gguf", FILE_TYPES["f32"])
    write_gguf(source, folder / "ours.gguf", FILE_TYPES[name])
    params = llama_cpp.LlamaModelQuantizeParams()
    params.ftype, params.nthread = int(number), 1
    llama_cpp.model_quantize(str(folder / "f32.gguf"), str(folder / "theirs.gguf"), params)
    ours, theirs = ({t.name: t for t in gguf.GGUFReader(folder / f"{who}.gguf").tensors} for who in ("ours", "theirs"))
    types = [{name: tensor.tensor_type.name for name, tensor in tensors.items()} for tensors in (ours, theirs)]
    assert types[0] == types[1]
    assert all(np.array_equal(ours[name].data, theirs[name].data) for name in ours)


@pytest.mark.parametrize("name", [name for name, file_type in FILE_TYPES.items() if not file_type.is_float])
@pytest.mark.parametrize("width", [256, 96])
def test_types_and_bytes_are_those_of_llama_cpps_own_quantiser(name, width, tmp_path):
    """Also for rows that 256 does not divide, for grouped heads, and for fused projections."""
    blocks = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 16, "num_attention_heads": 8}
    llama = model_of("llama", head_dim=8, num_key_value_heads=2, **blocks)
    for model in (llama, model_of("gpt2", n_embd=width, n_inner=2 * width, n_layer=16, n_head=8)):
        assert_quantised_as_by_llama_cpp(model, name, tmp_path)


def test_rows_that_no_block_divides_stay_halves_and_load(tmp_path):
    model = model_of("llama", hidden_size=48, intermediate_size=96)
    types = write_gguf(gguf_model(model), tmp_path / "model.gguf", FILE_TYPES["q8_0"])
    assert types["blk.0.ffn_up.weight"].name == "F16" and types["blk.0.ffn_down.weight"].name == "Q8_0"
    ids = list(range(5, 20))
    actual = LlamaCpp(tmp_path / "model.gguf", 24, 1).logits(ids)
    assert np.abs(actual - torch_logits(model, ids)).mean() < 0.01 * np.abs(actual).max()


@pytest.mark.parametrize("name", ["q8_0", "q5_0", "q5_1", "q4_0", "q4_1"])
@pytest.mark.parametrize("rows", ["normal", "zeros", "spike", "constant", "denormal", "equal maxima"])
def test_blocks_are_those_of_the_reference_encoder(name, rows):
    generator = np.random.default_rng(0)
    values = {
        "normal": generator.normal(size=(4, 64)), "zeros": np.zeros((4, 64)), "spike": np.where(np.eye(4, 64), -7.5, 0.0), "constant": np.full((4, 64), 0.37),
        "denormal": generator.normal(size=(4, 64)) * 1e-42, "equal maxima": np.where(np.arange(64) % 2, 1.0, -1.0) * np.ones((4, 1)),
    }[rows].astype(np.float32)  # fmt: skip
    kind = FILE_TYPES[name].kind
    blocks = encode(values, kind)
    assert np.array_equal(blocks, gguf.quants.quantize(values, kind))
    decoded = gguf.quants.dequantize(blocks, kind)
    largest, spread = (
        np.abs(values).reshape(4, 2, 32).max(-1, keepdims=True),
        np.ptp(values.reshape(4, 2, 32), axis=-1, keepdims=True),
    )
    of_half = 2.0**-11 * (largest + spread) + 2.0**-24
    limit = {
        "q8_0": largest / 254,
        "q5_0": largest / 16,
        "q4_0": largest / 8,
        "q4_1": spread / 30,
        "q5_1": spread / 62,
    }[name]
    assert (np.abs(decoded - values).reshape(4, 2, 32) <= limit + of_half * 2).all()
    if name in ("q8_0", "q4_0") and rows != "denormal":
        assert np.array_equal(encode(decoded, kind), blocks)  # a fixed point


def test_importance_moves_the_error_to_columns_that_matter_less():
    values = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 4 == 0, 100.0, 1.0).astype(np.float32)
    for kind in (Kind.Q4_0, Kind.Q4_K, Kind.Q2_K, Kind.Q6_K):
        plain, weighted = (
            gguf.quants.dequantize(encode(values, kind, weights), kind) - values for weights in (None, importance)
        )
        assert (weighted[:, ::4] ** 2).mean() < (plain[:, ::4] ** 2).mean()


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        encode(np.full((1, 32), np.nan, dtype=np.float32), Kind.Q8_0)
