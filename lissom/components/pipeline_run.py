"""The pipeline run of a stage, and a check that DVC tracks the files that the stage reads."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from lissom.components.specs import STAGES, StageSpec
from lissom.errors import InputError
from lissom.params import Params

DVC_FILE = Path("dvc.yaml")
_PARAMS_FILE = "params.yaml"


def pipeline_run(arguments: dict[str, Any]) -> str:
    """Return the id that all stages of a pipeline run share; empty for a stage that runs by itself.

    Under Kubeflow it is given by the option; under DVC it identifies the `dvc` process that is the common ancestor.
    """
    if arguments["pipeline_run"] or "DVC_STAGE" not in os.environ:
        return str(arguments["pipeline_run"])
    for process in psutil.Process().parents():
        try:
            if any("dvc" in Path(word).name for word in process.cmdline()[:3]):
                return f"dvc-{process.pid}-{process.create_time():.0f}"
        except psutil.Error:  # a process of another user, or one that has just ended
            continue
    return ""


def watched_files(spec: StageSpec, params: Params) -> list[str]:
    """Return the user's files and folders that a stage reads, which must be among its dependencies in DVC."""
    places = []
    if "base" in spec.sections and params.base.model.startswith("dir:"):
        places.append(params.base.model.removeprefix("dir:"))
    if spec.name == "prepare":
        if params.data.source.startswith("files:"):
            places.append(params.data.source.removeprefix("files:"))
        if params.data.transfer is not None:
            places.append(params.data.transfer)
    return [Path(place).as_posix() for place in places]


def literal(path: str) -> str:
    """Return a user's path as dvc.yaml holds it, where `${...}` would be a variable (DVC's templating)."""
    return path.replace("${", "\\${")


def watched_sections(spec: StageSpec, params: Params) -> list[str]:
    """Return the sections of params.yaml that DVC watches for a stage: those that are there."""
    return [section for section in spec.sections if section in params.model_fields_set]


def check_watched(spec: StageSpec, params: Params) -> None:
    """Raise `InputError` if DVC runs the stage and dvc.yaml does not fit params.yaml.

    A file that the stage reads may be missing in its dependencies; a section of any stage may have come or gone.
    What a user has added is no fault.
    """
    if "DVC_STAGE" not in os.environ or not DVC_FILE.is_file():
        return
    stages = _written_stages()
    dependencies = {Path(str(place)).as_posix() for place in stages.get(spec.name, {}).get("deps", ())}
    missing = [place for place in watched_files(spec, params) if literal(place) not in dependencies]
    if missing:
        raise InputError(
            f"{DVC_FILE} does not list {', '.join(missing)} among the dependencies of {spec.name}, so that a change "
            "there would not be noticed; write it anew for these params: python -m lissom.pipelines dvc"
        )
    if changed := _unfitting(stages, params):
        raise InputError(
            f"{DVC_FILE} does not fit params.yaml, or is of another version of lissom ({', '.join(changed)}); write it "
            "anew: python -m lissom.pipelines dvc"
        )


def unfitting_sections(params: Params) -> list[str]:
    """Return the sections that dvc.yaml should watch and does not, and those that are gone, with their stages.

    None where there is no dvc.yaml.
    """
    return _unfitting(_written_stages(), params) if DVC_FILE.is_file() else []


def _written_stages() -> dict[str, Any]:
    content = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))
    return (content or {}).get("stages") or {}


def _unfitting(stages: Mapping[str, Any], params: Params) -> list[str]:
    found = []
    for spec in STAGES:
        if spec.name not in stages:
            continue
        watched = set(_sections_in(stages[spec.name].get("params") or ()))
        gone = watched.intersection(type(params).model_fields) - params.model_fields_set
        missing = set(watched_sections(spec, params)) - watched
        found += [f"{section}: stage {spec.name}" for section in sorted(gone | missing)]
    return found


def _sections_in(entries: Iterable[Any]) -> Iterator[str]:
    """Yield the sections of params.yaml that entries of a stage's `params` watch, whole or in part."""
    for entry in entries:
        if isinstance(entry, Mapping):
            yield from _sections_in(entry.get(_PARAMS_FILE) or ())
        else:
            yield str(entry).partition(".")[0]
