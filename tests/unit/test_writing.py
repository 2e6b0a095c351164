"""Engines that write texts: reading a text in parts gives torch's logits, and a state can be read after again."""

import numpy as np
import pytest
import torch

from lissom.evaluate.engines import TorchSteps
from lissom.evaluate.writing import prompt_runner, token_runner
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.gguf.llama_cpp import LlamaCpp
from tests.unit.test_gguf import bound, model_of

TEXT = [9, 30, 12, 44, 27, 61]


def step_of(engine, model, folder):
    if engine == "torch":
        return TorchSteps(model.network)
    write_gguf(gguf_model(model), folder / "model.gguf", FILE_TYPES["f32"])
    return LlamaCpp(folder / "model.gguf", context=24, threads=1, exact=engine == "llama.cpp").step


@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2"])
def test_parts_give_the_logits_of_the_whole(engine, family, tmp_path):
    model = model_of(family, **({"sliding_window": 16} if family == "gemma2" else {}))
    step = step_of(engine, model, tmp_path)
    with torch.no_grad():
        whole = model.network(input_ids=torch.tensor([TEXT])).logits[0].numpy()
    tolerance = bound(family) * np.abs(whole).max()
    logits, state = step(TEXT[:4], None)
    assert np.abs(logits - whole[3]).max() < tolerance
    step([70], state)  # another continuation, which is forgotten
    for _ in range(3):
        logits, after = step(TEXT[4:5], state)
        assert np.abs(logits - whole[4]).max() < tolerance
    logits, _ = step(TEXT[5:], after)
    assert np.abs(logits - whole[5]).max() < tolerance
    logits, _ = step(TEXT[:2], None)
    assert np.abs(logits - whole[1]).max() < tolerance


def test_runners_write_after_a_prompt_that_is_read_once():
    lengths, states = [], []

    def step(tokens, state):
        lengths.append(len(tokens))
        states.append(state)
        return np.zeros(3, dtype=np.float32), (state or 0) + len(tokens)

    write = token_runner(step, TEXT)
    write(0), write(1)
    assert lengths == [6, 1, 1] and states == [None, 6, 6]
    read = prompt_runner(step, [TEXT, TEXT[:2]])
    read(1), read(0)
    assert lengths[3:] == [2, 6] and states[3:] == [None, None]
