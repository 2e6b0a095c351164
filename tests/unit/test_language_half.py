"""The language model inside a LLaVA: the same answers to texts, and the way of every other language model."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lissom.errors import InputError
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from tests.unit import tiny
from tests.unit.test_gguf import TASK


@pytest.fixture
def llava(tmp_path):
    tokenizer = tiny.byte_level_tokenizer()
    text = tiny.CONFIGS["llama"]()
    text = type(text)(**(text.to_dict() | {"vocab_size": tokenizer.get_vocab_size(), "tie_word_embeddings": False}))
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=5)
    ).eval()
    whole.save_pretrained(tmp_path / "llava")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "llava")
    return whole, BaseParams(model=f"dir:{tmp_path / 'llava'}", max_length=16)


def test_its_language_model_answers_as_the_whole_does(llava, tmp_path):
    whole, params = llava
    told = []
    model = load_base(params, TASK, 0, told.append)
    ids = [9, 30, 12, 44, 27]
    with torch.no_grad():
        expected = whole(input_ids=torch.tensor([ids])).logits[0]
        actual = model.network(input_ids=torch.tensor([ids])).logits[0]
    assert torch.allclose(actual, expected, atol=1e-5)
    assert model.network.config.model_type == "llama" and "projector and the image encoder are left out" in told[0]
    write_gguf(gguf_model(model), tmp_path / "half.gguf", FILE_TYPES["f32"])
    logits = LlamaCpp(tmp_path / "half.gguf", 16, 1).logits(ids)
    assert torch.allclose(torch.from_numpy(logits), expected, atol=1e-4)


def test_it_is_no_classifier(llava):
    with pytest.raises(InputError, match=r"a llava holds a language model, whose data\.task is language_modeling"):
        load_base(llava[1], tiny.TASK, 0)
