"""lissom.json: what a model directory says about itself."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lissom.artifacts import MANIFEST, read_json
from lissom.data.labels import Scale
from lissom.errors import ModelFormatError
from lissom.models.edits import Edit
from lissom.section import Section

FORMAT_VERSION = 1


class Task(Section):
    """What the model is asked."""

    name: str
    labels: tuple[str, ...]
    """Names of the classes; empty where a number is predicted."""
    scale: Scale | None
    """Of the number to predict."""
    pair: bool
    """Whether a question is a pair of texts."""
    max_length: int

    @property
    def outputs(self) -> int:
        """Return the width of the network's answer."""
        return len(self.labels) or 1

    @property
    def coding(self) -> tuple[str, ...] | Scale:
        """Return how labels become what a training sees."""
        return self.scale or self.labels

    def describe(self) -> str:
        """Return what is predicted, in words."""
        if self.scale is not None:
            return f"a number (mean {self.scale.mean:g}, deviation {self.scale.deviation:g})"
        return f"the labels {', '.join(self.labels)}"

    @property
    def score(self) -> str:
        """Return the name of the figure that models of this task are judged by."""
        return "accuracy" if self.scale is None else "pearson"


class Step(Section):
    """One stage of the model's way, as the registry and the report show it."""

    stage: str
    method: str
    params: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float | int | str | None] = Field(default_factory=dict)
    cost: dict[str, float | str | None] = Field(default_factory=dict)
    run_id: str | None = None


class Manifest(Section):
    """A compressed model is a base config, an ordered list of edits, and weights."""

    format_version: int = FORMAT_VERSION
    base: str
    """Source of the base model, as in params."""
    base_sha256: str | None
    base_config: dict[str, Any]
    """The config that the network is built from before the edits."""
    task: Task
    edits: tuple[Edit, ...] = ()
    steps: tuple[Step, ...] = ()
    weights_sha256: str | None = None
    """Digest of model.safetensors, set when the model is saved."""

    def with_step(self, step: Step) -> "Manifest":
        """Return the manifest with one more step of lineage."""
        return self.model_copy(update={"steps": (*self.steps, step)})


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a model directory.

    Raises:
        ModelFormatError: there is none, it is broken, or of another format version.
    """
    path = folder / MANIFEST
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise ModelFormatError(f"{folder}: not a lissom model directory, there is no {MANIFEST} in it") from None
    except ValueError as error:
        raise ModelFormatError(f"{path}: not JSON ({error}); the file is damaged, make the model again") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        advice = "update lissom" if isinstance(version, int) and version > FORMAT_VERSION else "make the model again"
        raise ModelFormatError(
            f"{path}: format version {version}, this lissom reads version {FORMAT_VERSION}; {advice}"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelFormatError(f"{path}: {place}: {first['msg']} (given: {str(first['input'])[:60]})") from None
