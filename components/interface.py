"""From a stage's typed interface to the command that its container runs. Imports kfp, and nothing that is heavy."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from lissom.cluster import CHECKPOINTS

IMAGE = "lissom-train"
"""Stands for the image until the pipeline is compiled."""

_EXECUTOR_INPUT = "{{$}}"  # Kubeflow puts the description of the task's artefacts here


def stage_command(
    stage: str,
    *,
    sections: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any],
    page: Any = None,
    variant: str | None = None,
) -> dsl.ContainerSpec:
    """Return the container of a stage: `python -m components.<stage>` with the options that DVC gives it, too.

    Args:
        stage: its name.
        sections: sections of the params by name.
        inputs: artefacts that it reads, by the option's name.
        metrics: other stages' metrics by the stage's name, for stages that read them.
        outputs: artefacts that it writes, its own metrics among them.
        page: where the report's page goes as a file of its own.
        variant: parameter with the variant, for stages that run once per variant.
    """
    arguments: list[Any] = []
    for name, value in sections.items():
        arguments += ["--section", name, value]
    for name, artifact in (inputs or {}).items():
        arguments += [f"--{name.replace('_', '-')}-input", artifact.path]
    for name, artifact in (metrics or {}).items():
        arguments += ["--metrics-of", name, artifact.path]
    for name, artifact in outputs.items():
        arguments += [f"--{name.replace('_', '-')}-output", artifact.path]
    if page is not None:
        arguments += ["--page-output", page.path]
    if variant is not None:
        arguments += ["--variant", variant]
    checkpoints = f"{CHECKPOINTS}/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}"
    arguments += ["--checkpoints", checkpoints, "--pipeline-run", dsl.PIPELINE_JOB_ID_PLACEHOLDER]
    arguments += ["--executor-input", _EXECUTOR_INPUT]
    return dsl.ContainerSpec(image=IMAGE, command=["python", "-m", f"components.{stage}"], args=arguments)
