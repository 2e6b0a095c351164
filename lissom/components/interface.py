"""Kubeflow components built from the stages' specs. Imports kfp, but no torch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from lissom.cluster import CHECKPOINTS
from lissom.components.specs import COMMON_SECTIONS, EVERY, METRICS_FOLDER, StageSpec, option

IMAGE = "lissom-train"
"""Placeholder for the image, which is set when the pipeline is compiled."""

_EXECUTOR_INPUT = "{{$}}"  # Kubeflow puts the description of the task's artefacts here
_KINDS = {"data": dsl.Dataset, "model": dsl.Model, "export": dsl.Model, METRICS_FOLDER: dsl.Metrics}
_PAGE = "page"


def component(spec: StageSpec, variants: Sequence[str]) -> BaseComponent:
    """Return the component of a stage: its interface and the command of its container.

    Its parameters are an artefact per input (one per variant for inputs of all variants), `<name>_output` per output, a
    JSON string `<section>_params` per section, and `variant` for stages that run once per variant.

    Args:
        spec: the stage.
        variants: names of all variants.
    """

    def container(**arguments: Any) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=IMAGE,
            command=["python", "-m", f"lissom.components.{spec.name}"],
            args=_arguments(spec, variants, arguments),
        )

    # kfp reads a component's interface from the signature of a function.
    container.__name__, container.__doc__ = spec.name, spec.help
    annotations = _annotations(spec, variants)
    signature = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in annotations]
    container.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return _by_name(container)


def sections_for(spec: StageSpec) -> list[str]:
    """Return the sections of the params that are passed to a stage's container, sorted by name."""
    return sorted({*COMMON_SECTIONS, *spec.sections})


def artefact_names(spec: StageSpec, name: str, variants: Sequence[str]) -> Mapping[str, str]:
    """Map the variants of an input to the names of their artefacts; a single entry "" if it has no variants."""
    if spec.inputs[name].variant == EVERY:
        return {variant: f"{name}_{variant}" for variant in variants}
    return {"": name}


def _by_name(container: Any) -> BaseComponent:
    # kfp passes positional arguments; `container` takes keyword arguments.
    names = list(inspect.signature(container).parameters)

    def positional(*values: Any) -> dsl.ContainerSpec:
        return container(**dict(zip(names, values, strict=True)))

    positional.__name__, positional.__doc__ = container.__name__, container.__doc__
    parameters = inspect.signature(container).parameters.values()
    positional.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters]
    )
    return dsl.container_component(positional)


def _annotations(spec: StageSpec, variants: Sequence[str]) -> list[tuple[str, Any]]:
    annotations: list[tuple[str, Any]] = []
    for name, source in spec.inputs.items():
        kind = _KINDS.get(source.output, dsl.Artifact)
        annotations += [(artefact, dsl.Input[kind]) for artefact in artefact_names(spec, name, variants).values()]
    for name in (*spec.outputs, METRICS_FOLDER):
        annotations.append((f"{name}_output", dsl.Output[_KINDS.get(name, dsl.Artifact)]))
    if "report" in spec.outputs:
        annotations.append((_PAGE, dsl.Output[dsl.HTML]))
    if spec.per_variant:
        annotations.append(("variant", str))
    return annotations + [(f"{section}_params", str) for section in sections_for(spec)]


def _arguments(spec: StageSpec, variants: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
    arguments: list[Any] = []
    for section in sections_for(spec):
        arguments += ["--section", section, values[f"{section}_params"]]
    for name, source in spec.inputs.items():
        for variant, artefact in artefact_names(spec, name, variants).items():
            flag = [option(name, "of"), variant] if source.variant == EVERY else [option(name, "input")]
            arguments += [*flag, values[artefact].path]
    for name in (*spec.outputs, METRICS_FOLDER):
        arguments += [option(name, "output"), values[f"{name}_output"].path]
    if "report" in spec.outputs:
        arguments += ["--page-output", values[_PAGE].path]
    if spec.per_variant:
        arguments += ["--variant", values["variant"]]
    checkpoints = f"{CHECKPOINTS}/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}"
    arguments += ["--checkpoints", checkpoints, "--pipeline-run", dsl.PIPELINE_JOB_ID_PLACEHOLDER]
    return [*arguments, "--executor-input", _EXECUTOR_INPUT]
