"""lissom.json: the manifest of a model directory."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lissom.artifacts import MANIFEST
from lissom.errors import ModelFormatError
from lissom.models.checking import read_bounded_json
from lissom.models.edits import Edit
from lissom.section import Section
from lissom.tasks.kinds import AnyTask

FORMAT_VERSION = 3


class Step(Section):
    """One stage of the model's lineage, as shown in the registry and the report."""

    stage: str
    method: str
    params: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=dict)
    """The stage's section of the params; a list for stages that take a list of methods."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """The contents of the stage's metrics.json."""
    cost: dict[str, float | str | None] = Field(default_factory=dict)
    run_id: str | None = None


class Manifest(Section):
    """A compressed model is a base config, an ordered list of edits, and weights."""

    format_version: int = FORMAT_VERSION
    base: str
    """Source of the base model, as in the params."""
    base_sha256: str | None
    base_config: dict[str, Any]
    """The config that the network is built from before the edits."""
    task: AnyTask
    edits: tuple[Edit, ...] = ()
    steps: tuple[Step, ...] = ()
    has_target_tokenizer: bool = False
    """Whether there is a target_tokenizer.json beside tokenizer.json."""
    weights_sha256: str | None = None
    """Digest of model.safetensors, set when the model is saved."""

    def with_step(self, step: Step) -> "Manifest":
        """Return the manifest with a step appended to its lineage."""
        return self.model_copy(update={"steps": (*self.steps, step)})


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a model directory.

    Raises:
        ModelFormatError: there is none, it is broken, or of another format version.
    """
    path = folder / MANIFEST
    try:
        values = read_bounded_json(path)
    except FileNotFoundError:
        raise ModelFormatError(f"{folder}: not a lissom model directory, there is no {MANIFEST} in it") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        advice = "update lissom" if isinstance(version, int) and version > FORMAT_VERSION else "make the model again"
        raise ModelFormatError(
            f"{path}: format version {str(version)[:40]}, this lissom reads version {FORMAT_VERSION}; {advice}"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ModelFormatError(f"{path}: {place}: {first['msg']} (given: {str(first['input'])[:60]})") from None
