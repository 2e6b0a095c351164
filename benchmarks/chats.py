"""Greedy answers to conversations: by files in llama.cpp's server, and by torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import require_data
from lissom.gguf.answers import torch_answer
from lissom.gguf.config import FileTypeName
from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.models.compressed import CompressedModel
from lissom.models.generation import end_ids
from lissom.serving.cores import usable_cores
from lissom.serving.llama_server import LlamaServer
from lissom.tasks.chat import as_text
from lissom.tasks.language_modeling import LanguageModeling

CHAT_TYPES: tuple[FileTypeName, ...] = ("f16", "f32")
PROMPTS, ANSWER = 20, 24


def chat_rows(model: CompressedModel, folder: Path, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, for a file of each type, the share of conversations with the same greedy answer."""
    task = model.manifest.task
    assert isinstance(task, LanguageModeling) and task.chat_template is not None
    lines = (require_data("chat") / "test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    prompts = []
    for line in lines:
        messages = json.loads(line)["messages"]
        first = next(place for place, message in enumerate(messages) if message["role"] == "user")
        prompt = as_text(messages[: first + 1], task.chat_template, task.chat_tokens, reply=True)
        prompts.append(model.tokenizer.encode(prompt, add_special_tokens=False).ids)
    expected = [torch_answer(model, tokens, ANSWER) for tokens in prompts]
    for kind in CHAT_TYPES:
        write_gguf(gguf_model(model), folder / f"{kind}.gguf", FILE_TYPES[kind])
        server = LlamaServer(folder / f"{kind}.gguf", 1024, usable_cores())
        margins = [0.0]
        for tokens, ours in zip(prompts, expected, strict=True):
            body = {
                "prompt": tokens,
                "n_predict": ANSWER,
                "temperature": 0,
                "return_tokens": True,
                "cache_prompt": False,
            }
            theirs = server.post("/completion", body)["tokens"]
            theirs = [token for token in theirs if token not in end_ids(model.network)]
            if theirs != ours:
                margins.append(_margin(model, tokens, ours, theirs))
        server.close()
        equal = 1 - (len(margins) - 1) / len(prompts)
        yield kind, {"answers_equal": equal, "largest_margin": max(margins)}


def _margin(model: CompressedModel, prompt: list[int], ours: list[int], theirs: list[int]) -> float:
    """Return by how much torch prefers its token to the file's one where two answers part, in logits."""
    place = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
    ids = torch.tensor([[*prompt, *ours[:place]]])
    with torch.inference_mode():
        top = model.network(input_ids=ids).logits[0, -1].topk(2).values
    return float(top[0] - top[1])
