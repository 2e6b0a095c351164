"""A finished artefact, whatever its format: what parity, quality, latency, energy and the registry work on.

A new format is one file beside this one that writes it, a class of this protocol, and a `case` in `open_exported`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lissom.artifacts import EXPORT_RECORD, SERVING, read_json
from lissom.errors import InputError
from lissom.section import Section

if TYPE_CHECKING:  # the records are read where there is no torch
    from lissom.data.batches import Batch
    from lissom.data.encoding import Encoded

Runner = Callable[[int], None]
"""Answers the i-th prepared batch."""

_BATCH_SIZE = 32


class Parity(Section):
    """How far the exported file is from torch, over the dev set."""

    tolerance_name: str
    tolerance: float
    max_logit_difference: float
    agreement: float | None
    """Share of equal answers; None where answers are never quite equal."""
    examples: int


class TriedSpeed(Section):
    """A model with exits at one speed, on the dev set."""

    speed: float
    """How uncertain an answer may be to leave; below 0 none does."""
    dev_score: float
    milliseconds: float
    """Mean latency at batch 1."""


class ExportRecord(Section):
    """export.json: what is known of an exported folder when it is finished; it travels with the files."""

    format: Literal["onnx"]
    files: dict[str, int]
    """Bytes of every file that is needed to answer, the model's own first."""
    integer_kernels: int
    parity: Parity
    tried_speeds: tuple[TriedSpeed, ...] = ()
    """Of a model with exits, among which the speed that it is served at was chosen."""
    cost: dict[str, Any] = Field(default_factory=dict)
    """Energy of the export, as a step's cost."""


class Exported(Protocol):
    """One exported folder."""

    folder: Path

    @property
    def serving(self) -> Mapping[str, Any]:
        """Return what serving.json says."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Return the bytes of every file that is needed to answer, the model's own first."""
        ...

    def kernels(self) -> int:
        """Count the matrix products that are computed with integers on this machine."""
        ...

    def answers(self, batch: "Batch") -> NDArray[np.float32]:
        """Answer a batch: `[batch, outputs]`."""
        ...

    def runner(self, batches: Sequence["Batch"], threads: int) -> Runner:
        """Return what answers prepared batches with a number of threads, to be timed beside others."""
        ...


def open_exported(folder: Path) -> Exported:
    """Open an exported folder.

    Raises:
        InputError: its format is not known.
    """
    from lissom.export.onnx_file import OnnxFile

    match read_json(folder / SERVING).get("format"):
        case "onnx":
            return OnnxFile(folder)
        case other:
            raise InputError(f"{folder / SERVING}: format {other!r} is not known; allowed: onnx")


def read_record(folder: Path) -> ExportRecord:
    """Return the record of a finished export."""
    return ExportRecord.model_validate(read_json(folder / EXPORT_RECORD))


def answers_of(exported: Exported, data: "Encoded") -> Iterator[tuple["Batch", NDArray[np.float32]]]:
    """Yield every example once, in batches of similar length, with its answers `[batch, outputs]`."""
    from lissom.data.batches import sorted_batches

    for batch in sorted_batches(data, _BATCH_SIZE, exported.serving["pad_id"]):
        yield batch, exported.answers(batch)


def all_answers(exported: Exported, data: "Encoded") -> NDArray[np.float32]:
    """Return the answers of every example in its place, `[examples, outputs]`."""
    return in_place(answers_of(exported, data))


def in_place(answers: Iterable[tuple["Batch", NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return answers that came batch by batch in the order of the examples."""
    values, places = [], []
    for batch, found in answers:
        values.append(found)
        places.append(batch.indices.numpy())
    return np.concatenate(values)[np.argsort(np.concatenate(places))]
