"""The pipeline for Kubeflow, built from the stages' specs."""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from lissom.components.interface import artefact_names, component, sections_for
from lissom.components.specs import OWN, STAGES, StageSpec
from lissom.params import Params
from lissom.pipelines.images import NAME, Images
from lissom.pipelines.resources import place

_PINNED = re.compile(r"(embedded|package|new):|hub:[^@]+@[0-9a-f]{40}$")
"""What is a part of the image, random, or a commit on the hub."""


def compression(params: Params, images: Images) -> BaseComponent:
    """Return the pipeline, with one JSON parameter per section and `params` as defaults."""
    # JSON, since Kubeflow's own dictionaries have no null and convert integers to floats.
    defaults = {
        name: json.dumps(section) for name, section in params.model_dump(mode="json", exclude={"cluster"}).items()
    }

    def pipeline(**sections: Any) -> None:
        _wire(params, images, sections)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=text, annotation=str)
        for name, text in defaults.items()
    ]
    pipeline.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    description = "Teacher, distil, prune, factorise, quantise, export, measure, register."
    return dsl.pipeline(name=NAME, description=description)(_with_positions(pipeline))


def _with_positions(function: Any) -> Any:
    """Return a function that also takes its parameters by position, as kfp passes them."""
    signature = inspect.signature(function)
    names = list(signature.parameters)

    def positional(*values: Any, **keywords: Any) -> None:
        function(**dict(zip(names, values, strict=False)), **keywords)

    kinds = [
        parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for parameter in signature.parameters.values()
    ]
    positional.__name__ = function.__name__
    positional.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
    return positional


def _wire(params: Params, images: Images, sections: Mapping[str, Any]) -> None:
    """Create the tasks of all stages and variants, and connect their inputs and outputs."""
    nodes = 1 if isinstance(params.parallel, str) else params.parallel.nodes
    tasks: dict[tuple[str, str], dsl.PipelineTask] = {}
    is_pinned = not changeable(params)
    for spec in STAGES:
        make = component(spec, params.variants)
        for variant in params.variants if spec.per_variant else ("",):
            arguments = {f"{name}_params": sections[name] for name in sections_for(spec)}
            arguments |= _artefacts(spec, variant, params, tasks)
            arguments |= {"variant": variant} if spec.per_variant else {}
            task = make(**arguments)
            task.set_display_name(f"{spec.name}@{variant}" if variant else spec.name)
            image = images.train if spec.trains else images.export
            cached = is_pinned and "@sha256:" in image
            tasks[spec.name, variant] = place(
                task, params.cluster, image, training=spec.trains, cached=cached, nodes=nodes
            )


def changeable(params: Params) -> list[str]:
    """Return the params that name data or a model which may change behind the same name.

    The cluster's cache goes by names: it would take yesterday's results for today's data.
    """
    places = {"data.source": params.data.source, "data.transfer": params.data.transfer, "base.model": params.base.model}
    return [key for key, place in places.items() if place is not None and not _PINNED.match(place)]


def _artefacts(
    spec: StageSpec, variant: str, params: Params, tasks: Mapping[tuple[str, str], dsl.PipelineTask]
) -> dict[str, Any]:
    """Map the names of a task's input artefacts to outputs of previous tasks."""
    result = {}
    for name, source in spec.inputs.items():
        for input_variant, artefact in artefact_names(spec, name, params.variants).items():
            stage = variant if source.stage == OWN else source.stage
            source_variant = input_variant or (variant if source.variant == OWN else source.variant)
            result[artefact] = tasks[stage, source_variant].outputs[f"{source.output}_output"]
    return result
