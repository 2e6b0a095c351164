"""The floors: cheap models that learn the task without a teacher, and show whether it needs a Transformer."""

from collections.abc import Callable, Mapping
from pathlib import Path

from lissom.data.tables import Table
from lissom.errors import InputError
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import Floor
from lissom.evaluate.linear_floor import LINEAR, linear_floor
from lissom.evaluate.static_floor import STATIC_VECTORS, static_floor
from lissom.models.compressed import CompressedModel
from lissom.tasks.kinds import AnyTask


def measure_floors(
    tables: Mapping[str, Table],
    task: AnyTask,
    base: Callable[[], CompressedModel],
    params: EvaluateParams,
    scratch: Path,
) -> tuple[tuple[Floor, ...], dict[str, str]]:
    """Train and measure every floor; return those that could be made, and for the others by name why not.

    Args:
        tables: `train`, `dev` (for choices) and `test`.
        task: the task.
        base: returns the base model, of which the tokenizer and the word table are used.
        params: time of the latencies.
        scratch: a folder for temporary files.
    """
    floors: list[Floor] = []
    absent: dict[str, str] = {}
    makers: dict[str, Callable[[], Floor]] = {
        LINEAR: lambda: linear_floor(tables, task, params),
        STATIC_VECTORS: lambda: static_floor(tables, _for_whole_texts(task, base), params, scratch),
    }
    for name, make in makers.items():
        try:
            floors.append(make())
        except InputError as reason:  # a figure that stands beside the others ends no pipeline
            absent[name] = str(reason)
    return tuple(floors), absent


def _for_whole_texts(task: AnyTask, base: Callable[[], CompressedModel]) -> CompressedModel:
    """Load the base model for a student that answers whole texts; raises `InputError` before if the task has none."""
    if task.is_per_token:
        raise InputError("a mean of vectors answers whole texts, not their words or tokens")
    return base()
