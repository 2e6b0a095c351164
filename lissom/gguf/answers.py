"""Greedy answers of GGUF files to the beginnings of a user's own texts, compared with torch's."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from lissom.gguf.card import Answers, Changed
from lissom.gguf.config import FileTypeName
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.compressed import CompressedModel
from lissom.models.generation import end_ids, writes_plainly
from lissom.tasks.chat import as_text
from lissom.tasks.language_modeling import LanguageModeling

WRITTEN = 16
"""Tokens of an answer."""
_SHOWN = 3


def compare_answers(
    paths: Mapping[FileTypeName, Path], model: CompressedModel, prompts: Sequence[Sequence[int]], context: int,
    threads: int,
) -> dict[FileTypeName, Answers]:  # fmt: skip
    """Let files and torch write on from the same prompts, always the most likely token.

    Args:
        paths: paths of the files, by type.
        model: the model in torch.
        prompts: tokens of the prompts, each with room for an answer in the context.
        context: the longest text.
        threads: threads of llama.cpp.
    """
    decode = model.tokenizer.decode
    expected = [torch_answer(model, prompt) for prompt in prompts]
    result = {}
    for kind, path in paths.items():
        engine = LlamaCpp(path, context, threads)
        ends = frozenset(engine.ends)  # the file's own
        written = [_answer(engine, prompt, ends) for prompt in prompts]
        changed = [
            Changed(prompt=decode(list(prompt)), torch=decode(ours), file=decode(theirs))
            for prompt, ours, theirs in zip(prompts, expected, written, strict=True)
            if ours != theirs
        ]
        equal = 1 - len(changed) / len(prompts)
        result[kind] = Answers(prompts=len(prompts), equal=equal, changed=tuple(changed[:_SHOWN]))
    return result


def prompt_tokens(model: CompressedModel, text: str) -> list[int]:
    """Return the tokens of a user's prompt: of a model for chat, a message that it is to answer."""
    task, ends = model.manifest.task, end_ids(model.network)
    if isinstance(task, LanguageModeling) and task.chat_template is not None:
        message = {"role": "user", "content": text}
        rendered = as_text([message], task.chat_template, task.chat_tokens, reply=True)
        return list(model.tokenizer.encode(rendered, add_special_tokens=False).ids)
    ids = list(model.tokenizer.encode(text).ids)
    return ids[:-1] if len(ids) > 1 and ids[-1] in ends else ids  # some tokenizers end every text


def torch_answer(model: CompressedModel, prompt: Sequence[int], most: int = WRITTEN) -> list[int]:
    """Return the most likely tokens after a prompt by torch, without the one that ends a text."""
    network, ends = model.network.eval(), end_ids(model.network)
    writes_plainly(network)
    settings = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=ends, pad_token_id=model.pad_id)
    ids = torch.tensor([list(prompt)], device=next(network.parameters()).device)
    with torch.inference_mode():
        written = network.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [int(token) for token in written[0, len(prompt) :] if int(token) not in ends]


def _answer(engine: LlamaCpp, prompt: Sequence[int], ends: Collection[int]) -> list[int]:
    written: list[int] = []
    logits, state = engine.step(prompt, None)
    while len(written) < WRITTEN and (token := int(logits.argmax())) not in ends:
        written.append(token)
        logits, state = engine.step([token], state)
    return written
