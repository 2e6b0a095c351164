"""Inference on raw text with an exported folder, run by onnxruntime.

Depends on numpy, onnxruntime and tokenizers only, and on no other package of lissom, since it ships with served models.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from lissom.serving import language_modeling, translation
from lissom.serving.answers import Answer, check_finite, rows_of_words, to_answers
from lissom.serving.cores import core_limit
from lissom.serving.folder import DECODER, SERVING, TOKENIZER, DamagedFolderError, check_digests, parsing, read_serving

_BATCH = 8
"""Texts that are computed at a time: memory grows with them, and beyond this a core gains little."""


class OnnxClassifier:
    """An exported model.

    Args:
        folder: holds `model.onnx`, `tokenizer.json` and `serving.json`.
        threads: threads of one inference; 0 takes all cores, or as many as the container may use.
        graph: name of the graph in the folder.
        speed: for a model with exits, how uncertain an answer may be to leave early: below 0 none does, at 1 all do;
            None takes what the folder says.
        spin: let idle threads wait busily for the next call: faster alone, unfair to whatever else is being timed.
        profile: a folder for onnxruntime's records of every kernel that it runs; `end_profiling` completes them.

    Raises:
        DamagedFolderError: a file is missing, damaged, or does not fit the others.
        ValueError: a speed is given for a model without exits.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int = 0,
        graph: str = "model.onnx",
        *,
        speed: float | None = None,
        spin: bool = True,
        profile: Path | None = None,
    ) -> None:
        folder = self._folder = Path(folder)
        self.serving: Mapping[str, Any] = read_serving(folder)
        self.speed: float | None = self.serving.get("speed") if speed is None else self._checked(speed)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or core_limit() or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised too
        if not spin:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile / "kernels")
        self._graph = folder / graph
        graphs = [graph, *([DECODER] if self.serving["kind"] == "translation" else [])]
        tensors = [f"{name}.data" for name in graphs]  # of graphs that are too large for one file
        check_digests(folder, self.serving, (*graphs, *(n for n in tensors if (folder / n).exists()), TOKENIZER))
        self._session, *others = (_open(folder / name, options) for name in graphs)
        self._decoder = next(iter(others), None)
        # A language model's graph also takes the keys and values of the tokens before: `[batch, heads, past, d_h]`.
        self._past = _pasts(self._session)
        self._written = {} if self._decoder is None else _pasts(self._decoder)
        self._outputs = [node.name for node in self._session.get_outputs()]
        with parsing(folder / TOKENIZER, "tokenizers"):
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self._tokenizer.enable_truncation(self.serving["max_length"])
            self._tokenizer.enable_padding(pad_id=self.serving["pad_id"])
        self._check_graph(folder)

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, speed: float | None = None
    ) -> list[Answer]:
        """Return an answer to every text (or pair), computed a few at a time to bound the memory.

        Raises:
            ValueError: pairs are missing for a task on pairs, or given for one on single texts; or a speed is given
                for a model without exits.
            NonFiniteOutputError: the model's output is not finite.
        """
        self._check_texts(texts, pairs)
        if speed is not None:
            self._checked(speed)
        if self.serving["kind"] == "language_modeling":
            return language_modeling.continuations(self.step, self._plain_tokenizer, texts, self.serving)
        answers: list[Answer] = []
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            encodings = self._tokenized(texts[part], None if pairs is None else pairs[part])
            if self._decoder is not None:
                written = self._tokenizer.decode_batch(self.write(self._inputs(encodings)), skip_special_tokens=True)
                answers += [{"translation": text.strip()} for text in written]
                continue
            logits = self.logits(self._inputs(encodings), speed)
            if self.serving["kind"] == "token_classification":
                logits = rows_of_words(logits, texts[part], encodings)
            answers += to_answers(logits, self.serving, texts[part])
        return answers

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, NDArray[np.int64]]:
        """Tokenise texts (or pairs) into the graph's input tensors, `[batch, n]`."""
        return self._inputs(self._tokenized(texts, pairs))

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> None:
        """Compute what input tensors `[batch, n]` are answered with: logits, or the tokens of an encoder-decoder."""
        if self._decoder is None:
            self.logits(inputs)
        else:
            self.write(inputs)

    def end_profiling(self) -> list[Path]:
        """Complete the records of the kernels that have run, one file for every graph."""
        sessions = [self._session, *([] if self._decoder is None else [self._decoder])]
        return [Path(session.end_profiling()) for session in sessions]

    def write(self, inputs: Mapping[str, NDArray[np.int64]]) -> list[list[int]]:
        """Return the tokens that an encoder-decoder writes, given the encoder's inputs, each `[batch, n]`."""
        decoder = self._started(inputs)
        return translation.search(decoder.step, len(inputs["input_ids"]), self.serving)

    def _started(self, inputs: Mapping[str, NDArray[np.int64]]) -> translation.Decoder:
        """Run the encoder; return the decoder that answers the texts."""
        decoder = self._decoder
        assert decoder is not None
        cross = self._run({name: inputs[name] for name in self.serving["inputs"]}, None)

        def run(feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
            with parsing(self._folder / DECODER, "onnxruntime", "run"):
                outputs: list[NDArray[Any]] = decoder.run(None, dict(feed))
            check_finite(outputs[0])
            return outputs

        return translation.Decoder(
            run, self._written, inputs["attention_mask"], dict(zip(self._outputs, cross, strict=True))
        )

    def step(self, tokens: Sequence[int], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Read further tokens of a text with a language model.

        Args:
            tokens: the tokens.
            state: what this method returned for the tokens before; None at the beginning.

        Returns:
            the logits of the next token, `[vocabulary]`, and the state for the tokens that follow.
        """
        if not self._past:  # a graph without a cache reads the whole text again
            tokens = [*(state or ()), *tokens]
        before = state[0].shape[2] if self._past and state else 0
        row = np.asarray([tokens], dtype=np.int64)
        inputs = {"input_ids": row, "attention_mask": np.ones((1, before + len(tokens)), dtype=np.int64)}
        logits, *present = self._run({**inputs, **dict(zip(self._past, state or (), strict=False))}, None)
        check_finite(logits[:, -1])
        return logits[0, -1], present if self._past else tokens

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        """The tokenizer without truncation and padding: a continuation reads the end of a text."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _tokenized(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[Encoding]:
        self._check_texts(texts, pairs)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        with parsing(self._folder / TOKENIZER, "tokenizers"):
            encodings: list[Encoding] = self._tokenizer.encode_batch(inputs)
        has_tokens = all(any(encoding.attention_mask) for encoding in encodings)
        if not has_tokens and not self.serving["answers_empty_texts"]:
            raise ValueError("a text has no tokens; an empty text has no answer")
        return encodings

    def _inputs(self, encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {
            name: np.asarray([getattr(encoding, columns[name]) for encoding in encodings], dtype=np.int64)
            for name in self.serving["inputs"]
        }

    def logits(self, inputs: Mapping[str, NDArray[np.int64]], speed: float | None = None) -> NDArray[np.float32]:
        """Return the logits, `[batch, labels]` or `[batch, n, labels]` by the task, of input tensors `[batch, n]`.

        Of an encoder-decoder those of the tokens after `decoder_input_ids`, `[batch, m, vocabulary]`.
        """
        if self._decoder is not None:
            return self._started(inputs).logits(inputs["decoder_input_ids"])
        logits: NDArray[np.float32] = self._run(inputs, speed, outputs=1)[0]
        return logits

    def answer(
        self, inputs: Mapping[str, NDArray[np.int64]], speed: float | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return logits `[batch, labels]` and executed blocks per example, `[batch]`; only for graphs with exits."""
        logits, depth = self._run(inputs, speed)
        return logits, depth

    def _run(self, inputs: Mapping[str, NDArray[Any]], speed: float | None, outputs: int | None = None) -> list[Any]:
        """Run the graph; return its first `outputs` outputs, or all."""
        feed: dict[str, NDArray[Any]] = dict(inputs)
        batch = len(next(iter(inputs.values())))
        for name, (_, heads, _, width) in self._past.items():
            feed.setdefault(name, np.empty((batch, heads, 0, width), dtype=np.float32))
        if speed is not None or self.speed is not None:
            feed["speed"] = np.asarray(self.speed if speed is None else self._checked(speed), dtype=np.float32)
        with parsing(self._graph, "onnxruntime", "run"):
            results: list[Any] = self._session.run(self._outputs[:outputs], feed)
        return results

    def _check_texts(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        if self.serving["pair"] != (pairs is not None):
            kind = "pairs of texts" if self.serving["pair"] else "single texts"
            raise ValueError(
                f"this model classifies {kind}; {'no second texts' if pairs is None else 'pairs'} were given"
            )
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts; give one for every text")
        try:
            "".join((*texts, *(pairs or ()))).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a surrogate pair, which is no character; give valid Unicode") from None

    def _check_graph(self, folder: Path) -> None:
        """Check that the graph has the inputs and outputs that serving.json lists."""
        speeds = [] if self.serving.get("speed") is None else ["speed"]
        expected, actual = {*self.serving["inputs"], *speeds}, {node.name for node in self._session.get_inputs()}
        actual -= self._past.keys()
        if expected != actual:
            raise DamagedFolderError(
                f"{folder / SERVING}: inputs {', '.join(sorted(expected))}, but the graph takes "
                f"{', '.join(sorted(actual))}; export the model again"
            )
        labels, shape = self.serving.get("labels"), self._session.get_outputs()[0].shape
        if labels is not None and shape and isinstance(shape[-1], int) and shape[-1] != len(labels):
            raise DamagedFolderError(
                f"{folder / SERVING}: {len(labels)} labels, but the graph returns {shape[-1]} logits; export again"
            )

    def _checked(self, speed: float) -> float:
        if self.serving.get("speed") is None:
            raise ValueError(f"speed {speed:g} is given, but this model has no exits: it always runs at full depth")
        return speed


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    with parsing(path, "onnxruntime"):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _pasts(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return the shapes of the inputs that are keys and values of earlier tokens, by name."""
    return {node.name: node.shape for node in session.get_inputs() if node.name.startswith("past_")}
