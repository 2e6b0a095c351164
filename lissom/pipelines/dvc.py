"""Generating dvc.yaml from the stages' specs and the params."""

from pathlib import Path
from typing import Any

import yaml

from lissom.artifacts import CONFUSION, HISTORY, POINTS, STEPS, SUMMARY, write_text
from lissom.components.pipeline_run import literal, watched_files, watched_sections
from lissom.components.specs import METRICS_FOLDER, STAGES, StageSpec, folder_options, inputs_of, outputs_of, place_of
from lissom.params import Params
from lissom.pipelines.imports import code_of

_HEAD = """\
# The pipeline for DVC: `dvc repro` runs what is out of date. Written by `python -m lissom.pipelines dvc` from
# components/specs.py and params.yaml; run it again when params.yaml gets or loses a section, or names another place of
# data or base model.
"""
_ITEM = "${item.variant}"
_REPORT = place_of("report", METRICS_FOLDER)


def write_dvc(params: Params, target: Path, root: Path | None) -> None:
    """Write dvc.yaml atomically.

    Args:
        params: the params, which name the user's files that stages read.
        target: path of dvc.yaml.
        root: root folder of lissom's code if it is a part of the repository; None if lissom is installed.
    """
    text = yaml.dump(pipeline(params, root), Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
    write_text(target, _HEAD + text)


def pipeline(params: Params, root: Path | None) -> dict[str, Any]:
    """Return the contents of dvc.yaml."""
    return {
        "stages": {spec.name: _stage(spec, params, root) for spec in STAGES},
        "metrics": [f"{_REPORT}/{SUMMARY}"],
        "plots": _plots(),
    }


def code_root() -> Path | None:
    """Return the working folder if it is a checkout of lissom, whose code DVC then watches."""
    return Path() if Path("lissom", "components", "specs.py").is_file() else None


def _plots() -> list[dict[str, Any]]:
    """Return the plots, by templates in `.dvc/plots`; a stage without training and a task without labels add none."""
    histories = [f"{place_of(step, METRICS_FOLDER)}/{HISTORY}" for step in STEPS]

    def curves(title: str, field: str) -> dict[str, Any]:
        return {
            title: {"x": "step", "y": dict.fromkeys(histories, field), "y_label": field, "template": "curves"},
        }

    def of_file(title: str, name: str, template: str, **axes: str) -> dict[str, Any]:
        place = f"{_REPORT}/{name}"
        named = {axis: {place: axes[axis]} for axis in ("x", "y")}
        labels = {f"{axis}_label": axes[f"{axis}_label"] for axis in ("x", "y")}
        return {title: {**named, **labels, "template": template}}

    return [
        of_file(
            "Score over latency", POINTS, "score_over_latency",
            x="milliseconds", y="score", x_label="median latency, ms (batch 1, log scale)", y_label="score on test",
        ),
        curves("Loss of the trainings", "loss"),
        curves("Score on dev during the trainings", "dev_score"),
        of_file(
            "Confusion of the final artefact", CONFUSION, "confusion_counts",
            x="predicted", y="actual", x_label="predicted", y_label="actual",
        ),
    ]  # fmt: skip


def _stage(spec: StageSpec, params: Params, root: Path | None) -> dict[str, Any]:
    variant = _ITEM if spec.per_variant else ""
    outputs = outputs_of(spec, variant)
    command = ["python", "-m", f"lissom.components.{spec.name}", *folder_options(spec, variant)]
    artefacts = list(dict.fromkeys(inputs_of(spec, variant).values()))
    stage: dict[str, Any] = {}
    if spec.per_variant:  # DVC reads params.yaml, without defaults for missing keys
        has_variants = "variants" in params.model_fields_set
        stage["matrix"] = {"variant": "${variants}" if has_variants else list(params.variants)}
    stage["cmd"] = " ".join(command)
    sections = watched_sections(spec, params)
    if sections:
        stage["params"] = sections
    files = [literal(path) for path in watched_files(spec, params)]
    stage["deps"] = [*(code_of(spec.name, root) if root else ()), *files, *artefacts]
    stage["outs"] = [
        {folder: {"cache": False}} if name == METRICS_FOLDER else folder for name, folder in outputs.items()
    ]
    return stage


class _Dumper(yaml.SafeDumper):
    """A dumper that indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)
