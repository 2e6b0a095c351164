"""An exported folder in ONNX format, run by onnxruntime."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.artifacts import ONNX, SERVING, TOKENIZER
from lissom.data.batches import Batch
from lissom.export.exported import GRAPH, Runner
from lissom.export.graph_file import files_of
from lissom.export.kernels import integer_kernels
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.folder import DECODER
from lissom.serving.language_modeling import Step


class OnnxFile:
    """Implements `Exported`.

    Args:
        folder: holds the graph, tokenizer.json and serving.json.
        graph: name of the graph.
        speed: for a model with exits, overrides the speed in serving.json.
    """

    def __init__(self, folder: Path, graph: str = ONNX, speed: float | None = None) -> None:
        self.folder = folder
        self._graph, self._speed = graph, speed

    @cached_property
    def _session(self) -> OnnxClassifier:
        return OnnxClassifier(self.folder, graph=self._graph, speed=self._speed)

    @property
    def serving(self) -> Mapping[str, Any]:
        """Return the contents of serving.json."""
        return self._session.serving

    @property
    def files(self) -> Mapping[str, int]:
        """Return the sizes in bytes of graphs (with a large one's file of tensors), tokenizer and serving.json."""
        graphs = [self._graph, *([DECODER] if self.serving["kind"] == "translation" else [])]
        sizes = {name: sum(path.stat().st_size for path in files_of(self.folder / name)) for name in graphs}
        return sizes | {name: (self.folder / name).stat().st_size for name in (TOKENIZER, SERVING)}

    def kernels(self) -> int:
        """Count the integer matrix products that onnxruntime runs on this machine."""
        return sum(integer_kernels(self.folder / name) for name in self.files if name.endswith(GRAPH))

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of a batch's rows, `[rows, outputs]`."""
        outputs = torch.from_numpy(self._session.logits(self._inputs(batch)))
        rows: NDArray[np.float32] = batch.outputs_of(outputs).numpy()
        return rows

    def depths(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return logits and number of executed blocks per example, `[batch]`; only for graphs with exits."""
        return self._session.answer(self._inputs(batch))

    def generate(self, batch: Batch) -> list[list[int]]:
        """Return the tokens that an encoder-decoder writes for every text of a batch."""
        return self._session.write(self._inputs(batch))

    def stepper(self, threads: int) -> Step:
        """Return a language model's function that reads tokens and returns the logits of the next one."""
        return OnnxClassifier(self.folder, threads, self._graph, spin=False).step

    def runner(self, batches: Sequence[Batch], threads: int) -> Runner:
        """Return a function that runs the i-th of `batches` with a number of threads; an encoder-decoder writes."""
        session = OnnxClassifier(self.folder, threads, self._graph, speed=self._speed, spin=False)
        inputs = [self._inputs(batch) for batch in batches]

        def run(number: int) -> None:
            session.run(inputs[number])

        return run

    def profile(self, batch: Batch, calls: int, folder: Path) -> list[Path]:
        """Answer a batch a number of times on one thread; return onnxruntime's records of the kernels, in `folder`."""
        session = OnnxClassifier(self.folder, 1, self._graph, speed=self._speed, spin=False, profile=folder)
        inputs = self._inputs(batch)
        for _ in range(calls):
            session.run(inputs)
        return session.end_profiling()

    def _inputs(self, batch: Batch) -> dict[str, NDArray[np.int64]]:
        names = (*self.serving["inputs"], "decoder_input_ids")
        return {name: batch.inputs[name].numpy() for name in names if name in batch.inputs}
