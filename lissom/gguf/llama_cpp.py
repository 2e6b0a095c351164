"""A GGUF file run by llama.cpp: its tokens and its logits, for the proof."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lissom.errors import InputError, advice_for

_F32 = 0
_LONGEST_TOKEN = 64  # bytes


class LlamaCpp:
    """A GGUF file, open in llama.cpp.

    Args:
        path: path of the file.
        context: the longest text, in tokens; None takes the file's.
        threads: number of threads.
        exact: whether keys and values are kept in float32, to compare with torch; else as llama.cpp does by default.

    Raises:
        InputError: the file is damaged, llama.cpp does not know what is in it, or its package is missing.
    """

    def __init__(self, path: Path, context: int | None, threads: int, *, exact: bool = True) -> None:
        try:
            from cyllama.llama import llama_cpp
        except ModuleNotFoundError as error:
            raise InputError(f"export.formats gguf: {advice_for(error)}") from None
        llama_cpp.disable_logging()
        try:
            self._model = type("Model", (llama_cpp.LlamaModel,), {"n_vocab": 0})(path_model=str(path), verbose=False)
            self._vocabulary = self._model.get_vocab()
            self._model.n_vocab = self._vocabulary.n_vocab  # which `get_logits_ith` of cyllama 0.2 looks for
            self.context: int = context or self._model.n_ctx_train
            params = llama_cpp.LlamaContextParams()
            params.n_ctx = params.n_batch = params.n_ubatch = self.context
            params.n_threads = params.n_threads_batch = threads
            if exact:
                params.type_k = params.type_v = _F32
                params.flash_attn_type = 0
            self._context = llama_cpp.LlamaContext(model=self._model, params=params, verbose=False)
            self._batch = llama_cpp.LlamaBatch(n_tokens=self.context, embd=0, n_seq_max=1)
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise InputError(f"{path}: llama.cpp cannot load it: {error}") from None

    @property
    def start(self) -> int:
        """Return the token that begins texts; -1 without one."""
        return int(self._vocabulary.token_bos())

    @property
    def ends(self) -> list[int]:
        """Return the tokens that end a text."""
        return [token for token in range(self._vocabulary.n_vocab) if self._vocabulary.is_eog(token)]

    def tokenize(self, text: str, begins: bool = True) -> list[int]:
        """Return the tokens of a text, with those that begin or end one, and special tokens where it names them."""
        return list(self._vocabulary.tokenize(text, begins, True))

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._vocabulary.detokenize(list(tokens), len(tokens) * _LONGEST_TOKEN, False, False))

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits of the next token after every token of a text, `[n, vocabulary]`."""
        self._read(tokens, 0, every=True)
        return np.asarray([self._context.get_logits_ith(place) for place in range(len(tokens))], dtype=np.float32)

    def step(self, tokens: Sequence[int], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Read further tokens of a text, as `lissom.serving.language_modeling.Step`; the state is their number.

        Only the text that was read last is kept.
        """
        before = state or 0
        self._read(tokens, before, every=False)
        logits = np.asarray(self._context.get_logits_ith(len(tokens) - 1), dtype=np.float32)
        return logits, before + len(tokens)

    def _read(self, tokens: Sequence[int], before: int, *, every: bool) -> None:
        """Read tokens after the first `before` ones that are kept; logits of all of them, or of the last one."""
        if before:
            self._context.memory_seq_rm(0, before, -1)
        else:
            self._context.kv_cache_clear(True)
        self._batch.set_batch(list(tokens), before, every)
        if self._context.decode(self._batch) != 0:
            raise InputError(f"llama.cpp cannot read a text of {before + len(tokens)} tokens")
