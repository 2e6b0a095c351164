"""A language model of any form, opened for its probabilities: in torch, as an exported ONNX folder, or in llama.cpp."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import DynamicCache, PreTrainedModel

from lissom.artifacts import SERVING, TOKENIZER
from lissom.errors import InputError
from lissom.gguf.llama_cpp import LlamaCpp
from lissom.gguf.running import find, is_gguf_model
from lissom.models.directory import load
from lissom.models.generation import end_ids, listed
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.cores import usable_cores
from lissom.serving.language_modeling import Step
from lissom.tasks.language_modeling import LanguageModeling


@dataclass(frozen=True)
class Engine:
    """A language model that is ready to run."""

    encode: Callable[[str, bool], list[int]]
    """Returns the tokens of a text, with those that begin one if the second argument says so."""
    decode: Callable[[Sequence[int]], str]
    logits: Callable[[Sequence[int]], NDArray[np.float32]]
    """Returns the logits of the next token after every token, `[n, vocabulary]`."""
    step: Step
    longest: int
    """The longest text in tokens."""
    ends: Sequence[int]
    """Tokens that end a text."""
    start: int
    """The token that a text follows which has no context."""


class TorchSteps:
    """A network in eager torch with a key/value cache; as `Step`, but a state may be used only by the next call."""

    def __init__(self, network: PreTrainedModel) -> None:
        self._network = network.eval()

    def __call__(self, tokens: Sequence[int], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Read tokens after those of the state; what was read after that state before is forgotten."""
        cache, before = state or (DynamicCache(config=self._network.config), 0)
        if cache.get_seq_length() > before:
            cache.crop(before - cache.get_seq_length())
        ids = torch.tensor([list(tokens)], device=next(self._network.parameters()).device)
        with torch.inference_mode():
            output = self._network(input_ids=ids, past_key_values=cache, use_cache=True)
        return output.logits[0, -1].float().cpu().numpy(), (output.past_key_values, before + len(tokens))


def open_engine(model: str) -> Engine:
    """Open a model directory, an exported folder, a folder for Ollama or a GGUF file.

    Raises:
        InputError: there is none, or it is no language model.
    """
    if is_gguf_model(model):
        return _gguf(find(model).path)
    if (Path(model) / SERVING).is_file():
        return _onnx(Path(model))
    return _torch(model)


def _torch(folder: str) -> Engine:
    model = load(folder)
    task, network = model.manifest.task, model.network.eval()
    if not isinstance(task, LanguageModeling):
        raise InputError(f"{folder}: no language model; it predicts {task.describe()}")

    def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
        ids = torch.tensor([list(tokens)], device=next(network.parameters()).device)
        with torch.inference_mode():
            rows: NDArray[np.float32] = network(input_ids=ids).logits[0].float().cpu().numpy()
        return rows

    ends = end_ids(network)
    start = next(iter([*listed(network.config.bos_token_id), *ends]), 0)
    return Engine(*_texts(model.tokenizer, ends), logits, TorchSteps(network), task.max_length, ends, start)


def _onnx(folder: Path) -> Engine:
    opened = OnnxClassifier(folder, usable_cores(), spin=False)
    serving = opened.serving
    if serving["kind"] != "language_modeling":
        raise InputError(f"{folder}: no language model; it is of the kind {serving['kind']}")

    def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
        row = np.asarray([list(tokens)], dtype=np.int64)
        rows: NDArray[np.float32] = opened.logits({"input_ids": row, "attention_mask": np.ones_like(row)})[0]
        return rows

    ends = list(serving["end_ids"])
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    begun = tokenizer.encode("a").ids
    start = begun[0] if len(begun) > 1 else next(iter(ends), 0)
    return Engine(*_texts(tokenizer, ends), logits, opened.step, serving["max_length"], ends, start)


def _gguf(path: Path) -> Engine:
    opened = LlamaCpp(path, None, usable_cores(), exact=False)
    ends = opened.ends
    return Engine(
        opened.tokenize, opened.text_of, opened.logits, opened.step, opened.context, ends,
        opened.start if opened.start >= 0 else ends[0],
    )  # fmt: skip


def _texts(
    tokenizer: Tokenizer, ends: Sequence[int]
) -> tuple[Callable[[str, bool], list[int]], Callable[[Sequence[int]], str]]:
    """Return how a tokenizer makes tokens of a text, without what ends one, and the text of tokens."""
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str, begins: bool) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=begins).ids
        return ids[:-1] if begins and len(ids) > 1 and ids[-1] in ends else ids

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens))
        return text

    return encode, decode
