"""The interface of exported models of any format, for parity, quality, latency, energy and the registry.

A new format needs a module that writes it, a class with this protocol, and a `case` in `open_exported`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lissom.artifacts import EXPORT_RECORD, SERVING, read_json
from lissom.errors import InputError
from lissom.gguf.card import AnyCard
from lissom.section import Section
from lissom.serving.folder import read_serving
from lissom.serving.language_modeling import Step

if TYPE_CHECKING:  # the records are read where there is no torch
    from torch import Tensor

    from lissom.data.batches import Batch
    from lissom.data.encoding import Encoded
    from lissom.tasks.task import Task

Runner = Callable[[int], None]
"""Runs the model on the i-th prepared batch."""

GRAPH = ".onnx"
"""Suffix of the graphs among the files of an exported folder."""
_BATCH_SIZE, _BATCH_SIZE_OF_DISTRIBUTIONS = 32, 8


class Parity(Section):
    """Differences between the exported file and the torch model on the dev set."""

    tolerance_name: str
    tolerance: float
    max_logit_difference: float
    agreement: float | None
    """Share of equal predictions; None for numbers, which are never exactly equal."""
    examples: int


class TriedSpeed(Section):
    """Measurements of a model with exits at one speed, on the dev set."""

    speed: float
    """Largest uncertainty at which an example leaves; below 0 none leaves early."""
    dev_score: float
    milliseconds: float
    """Mean latency at batch 1."""


class ExportRecord(Section):
    """export.json: the record of an exported folder, stored next to its files."""

    format: Literal["onnx"]
    files: dict[str, int]
    """Size in bytes of every file that inference needs, the model's own first."""
    integer_kernels: int
    parity: Parity
    tried_speeds: tuple[TriedSpeed, ...] = ()
    """Measured speeds of a model with exits; the speed of serving.json is one of them."""
    gguf: AnyCard | None = None
    """The proof of the files for llama.cpp and Ollama, if there are any."""
    cost: dict[str, Any] = Field(default_factory=dict)
    """Energy of the export, in the form of `Step.cost`."""


class Exported(Protocol):
    """An exported folder."""

    folder: Path

    @property
    def serving(self) -> Mapping[str, Any]:
        """Return the contents of serving.json."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Return the size in bytes of every file that inference needs, the model's own first."""
        ...

    def kernels(self) -> int:
        """Count the matrix products that are computed with integers on this machine."""
        ...

    def logits(self, batch: "Batch") -> NDArray[np.float32]:
        """Return the logits of a batch's rows, `[rows, outputs]`."""
        ...

    def generate(self, batch: "Batch") -> list[list[int]]:
        """Return the tokens that the model writes for every text of a batch, with the beam of serving.json."""
        ...

    def stepper(self, threads: int) -> Step:
        """Return a language model's function that reads tokens and returns the logits of the next one."""
        ...

    def runner(self, batches: Sequence["Batch"], threads: int) -> Runner:
        """Return a function that runs the i-th of `batches` with a number of threads, for latency measurements."""
        ...

    def profile(self, batch: "Batch", calls: int, folder: Path) -> list[Path]:
        """Answer a batch a number of times on one thread; return onnxruntime's records of the kernels, in `folder`."""
        ...


def open_exported(folder: Path) -> Exported:
    """Open an exported folder.

    Raises:
        InputError: its format is not known.
        DamagedFolderError: serving.json is missing or damaged.
    """
    from lissom.export.onnx_file import OnnxFile

    match read_serving(folder)["format"]:
        case "onnx":
            return OnnxFile(folder)
        case unknown:
            raise InputError(f"{folder / SERVING}: format {unknown!r} is not known; allowed: onnx")


def model_bytes(files: Mapping[str, int]) -> int:
    """Return the size of the model among the files of an exported folder, without tokenizer and settings."""
    return sum(size for name, size in files.items() if name.endswith(GRAPH))


def read_record(folder: Path) -> ExportRecord:
    """Return the record of a finished export."""
    return ExportRecord.model_validate(read_json(folder / EXPORT_RECORD))


def logits_by_batch(exported: Exported, data: "Encoded") -> Iterator[tuple["Batch", NDArray[np.float32]]]:
    """Yield batches of similar length with the logits of their rows `[rows, outputs]`, every example once."""
    from lissom.data.batches import sorted_batches

    for batch in sorted_batches(data, _size_for(exported), exported.serving["pad_id"]):
        yield batch, exported.logits(batch)


def split_answers(exported: Exported, data: "Encoded", task: "Task") -> NDArray[Any]:
    """Return what the task's metrics need of all answers, in the order of `data.judged`, `[rows, ...]`."""
    from lissom.data.batches import sorted_batches

    model, judged = _Answering(exported), data.judged
    values, places = [], []
    for batch in sorted_batches(data, _size_for(exported), exported.serving["pad_id"]):
        values.append(task.answers(model, batch, data))
        places.append(judged.rows_of(batch.indices.numpy()))
    return np.concatenate(values)[np.argsort(np.concatenate(places))]


class _Answering:
    """An exported folder whose logits are tensors."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        self.generate = exported.generate

    def logits(self, batch: "Batch") -> "Tensor":
        import torch

        return torch.from_numpy(self._exported.logits(batch))


def _size_for(exported: Exported) -> int:
    """Return how many texts are answered at once; few where every token has a distribution over a vocabulary."""
    return _BATCH_SIZE_OF_DISTRIBUTIONS if exported.serving["kind"] == "language_modeling" else _BATCH_SIZE
