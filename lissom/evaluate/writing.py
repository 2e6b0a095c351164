"""Speed of writing: reading a prompt, and writing a token after it, by several engines in turn in one process.

The engines are the teacher in eager torch with a key/value cache, the final model's ONNX graph with its cache, and
llama.cpp with the final model's GGUF files. Every one of them uses one pinned thread.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lissom.artifacts import OLLAMA
from lissom.data.encoding import Encoded
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.engines import TorchSteps
from lissom.evaluate.figures import EAGER, EngineSpeed, Writing
from lissom.evaluate.latency import measure_latency
from lissom.export.exported import Exported, Runner, read_record
from lissom.gguf.card import Card
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.models.compressed import CompressedModel
from lissom.serving.language_modeling import Step
from lissom.serving.llama_server import LlamaServer

ONNX = "onnx"
_PROMPT, _PROMPTS, _WRITTEN = 128, 8, 16


def prompts_of(data: Encoded, context: int) -> list[list[int]]:
    """Return the beginnings of test texts, all of one length: as long as they have, at most half of the context."""
    length = min(_PROMPT, int(data.lengths.max()) - 1, context // 2)
    starts = [start for start, count in zip(data.offsets, data.lengths, strict=False) if count > length][:_PROMPTS]
    return [data.tokens[start : start + length].tolist() for start in starts]


def gguf_files(exported: Exported) -> dict[str, Path]:
    """Return the GGUF files of an exported language model by their type; none without the format."""
    card = read_record(exported.folder).gguf
    files = card.files if isinstance(card, Card) else ()
    return {file.type: exported.folder / OLLAMA / file.file for file in files}


def engines(teacher: CompressedModel, exported: Exported, context: int) -> dict[str, Step]:
    """Return what reads and writes tokens, by name: eager, onnx, and the types of the GGUF files."""
    opened = {name: LlamaCpp(path, context, threads=1, exact=False).step for name, path in gguf_files(exported).items()}
    return {EAGER: TorchSteps(teacher.network), ONNX: exported.stepper(threads=1), **opened}


def token_runner(step: Step, prompt: Sequence[int]) -> Runner:
    """Return a function that writes one more token after a prompt, which is read once, here."""
    _, state = step(prompt, None)

    def run(_: int) -> None:
        step(prompt[-1:], state)

    return run


def prompt_runner(step: Step, prompts: Sequence[Sequence[int]]) -> Runner:
    """Return a function that reads the i-th prompt: the time to the first token."""

    def run(number: int) -> None:
        step(prompts[number], None)

    return run


def measure_writing(
    teacher: CompressedModel, exported: Exported, test: Encoded, params: EvaluateParams
) -> Writing | None:
    """Time all engines on the same prompts, in turn; None if no test text is long enough.

    Args:
        teacher: the teacher, run in eager torch.
        exported: the final model's exported folder.
        test: the test texts.
        params: time and retries.
    """
    context = int(exported.serving["max_length"])
    prompts = prompts_of(test, context)
    if not prompts or not prompts[0]:
        return None
    steps = engines(teacher, exported, context)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        limits: Mapping[str, Any] = {"threads": 1, "seconds": params.seconds, "retries": params.retries}
        readers = {name: prompt_runner(step, prompts) for name, step in steps.items()}
        prompt = measure_latency(readers, [len(tokens) for tokens in prompts], **limits)
        writers = {name: token_runner(step, prompts[0]) for name, step in steps.items()}
        token = measure_latency(writers, [1], **limits)
    finally:
        torch.set_num_threads(threads)
    memory = {name: _peak_rss(path, prompts[0], context) for name, path in gguf_files(exported).items()}
    return Writing(
        prompt_tokens=len(prompts[0]),
        engines={
            name: EngineSpeed(
                prompt=prompt.latency(name), token=token.latency(name), prompt_speedup=prompt.ratio(EAGER, name),
                token_speedup=token.ratio(EAGER, name), peak_rss_megabytes=memory.get(name),
            )
            for name in steps
        },
        prompt_conditions=prompt.conditions,
        token_conditions=token.conditions,
    )  # fmt: skip


def _peak_rss(path: Path, prompt: Sequence[int], context: int) -> float:
    """Return the peak memory in MB of llama.cpp's server that has answered one request."""
    server = LlamaServer(path, context, threads=1)
    try:
        server.post("/completion", {"prompt": list(prompt), "n_predict": _WRITTEN})
        return server.peak_bytes() / 1e6
    finally:
        server.close()
