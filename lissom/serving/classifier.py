"""Inference on raw text with an exported folder, run by onnxruntime.

Depends on numpy, onnxruntime and tokenizers only, and on no other package of lissom, since it ships with served models.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lissom.serving import classification, regression
from lissom.serving.cores import core_limit

Answer = dict[str, Any]
"""`label` and `probabilities`, or `value`: what one text is answered with, by the task's kind."""


class OnnxClassifier:
    """An exported model.

    Args:
        folder: holds `model.onnx`, `tokenizer.json` and `serving.json`.
        threads: threads of one inference; 0 takes all cores, or as many as the container may use.
        graph: name of the graph in the folder.
        speed: for a model with exits, how uncertain an answer may be to leave early: below 0 none does, at 1 all do;
            None takes what the folder says.
        spin: let idle threads wait busily for the next call: faster alone, unfair to whatever else is being timed.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int = 0,
        graph: str = "model.onnx",
        *,
        speed: float | None = None,
        spin: bool = True,
    ) -> None:
        folder = Path(folder)
        self.serving: Mapping[str, Any] = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.speed: float | None = self.serving.get("speed") if speed is None else self._checked(speed)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or core_limit() or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not spin:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(self.serving["max_length"])
        self._tokenizer.enable_padding(pad_id=self.serving["pad_id"])

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, speed: float | None = None
    ) -> list[Answer]:
        """Return an answer to every text (or pair).

        Raises:
            ValueError: pairs are missing for a task on pairs, or given for one on single texts; or a speed is given
                for a model without exits.
        """
        if not texts:
            return []
        return to_answers(self.logits(self.encode(texts, pairs), speed), self.serving)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, NDArray[np.int64]]:
        """Tokenise texts (or pairs) into the graph's input tensors, `[batch, n]`."""
        if self.serving["pair"] != (pairs is not None):
            kind = "pairs of texts" if self.serving["pair"] else "single texts"
            raise ValueError(
                f"this model classifies {kind}; {'no second texts' if pairs is None else 'pairs'} were given"
            )
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(inputs)
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {
            name: np.asarray([getattr(encoding, columns[name]) for encoding in encodings], dtype=np.int64)
            for name in self.serving["inputs"]
        }

    def logits(self, inputs: Mapping[str, NDArray[np.int64]], speed: float | None = None) -> NDArray[np.float32]:
        """Return the logits `[batch, labels]` of input tensors `[batch, n]`."""
        logits: NDArray[np.float32] = self._run(inputs, speed)[0]
        return logits

    def answer(
        self, inputs: Mapping[str, NDArray[np.int64]], speed: float | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return logits `[batch, labels]` and executed blocks per example, `[batch]`; only for graphs with exits."""
        logits, depth = self._run(inputs, speed)
        return logits, depth

    def _run(self, inputs: Mapping[str, NDArray[np.int64]], speed: float | None) -> list[Any]:
        feed: dict[str, NDArray[Any]] = dict(inputs)
        if speed is not None or self.speed is not None:
            feed["speed"] = np.asarray(self.speed if speed is None else self._checked(speed), dtype=np.float32)
        outputs: list[Any] = self._session.run(None, feed)
        return outputs

    def _checked(self, speed: float) -> float:
        if self.serving.get("speed") is None:
            raise ValueError(f"speed {speed:g} is given, but this model has no exits: it always runs at full depth")
        return speed


def to_answers(outputs: NDArray[np.float32], serving: Mapping[str, Any]) -> list[Answer]:
    """Convert logits `[batch, outputs]` to answers; `serving` is the contents of serving.json."""
    match serving["kind"]:
        case "classification":
            return classification.answers(outputs, serving)
        case "regression":
            return regression.answers(outputs, serving)
        case kind:
            raise ValueError(f"serving.json: kind {kind!r} is not known; update lissom")
