"""Kubeflow's executor output: metrics of a finished task, and metadata of its artefacts.

A container component writes them to executor_output.json; its path and the artefacts are in the executor input, which
Kubeflow passes on the command line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissom.artifacts import write_json
from lissom.errors import InputError

_METRICS = "system.Metrics"
_LONGEST_NAME = 120


def write_executor_output(executor_input: str, figures: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the executor output of a task.

    Args:
        executor_input: the JSON from the command line.
        figures: flat mapping of metrics; values that are not numbers are left out.
        facts: metadata of all artefacts except the metrics.

    Raises:
        InputError: the executor input does not have Kubeflow's format.
    """
    numbers = {
        name[-_LONGEST_NAME:]: value
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    try:
        outputs = json.loads(executor_input)["outputs"]
        target = Path(outputs["outputFile"])
        artifacts = {
            name: {"artifacts": [_with(entry["artifacts"][0], numbers, facts)]}
            for name, entry in outputs.get("artifacts", {}).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            "--executor-input: not the JSON that Kubeflow puts for {{$}}; leave it out elsewhere"
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {"artifacts": artifacts})


def _with(artifact: Mapping[str, Any], numbers: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    metadata = numbers if artifact["type"]["schemaTitle"] == _METRICS else facts
    metadata_before = artifact.get("metadata", {})
    return {"name": artifact["name"], "uri": artifact["uri"], "metadata": {**metadata_before, **metadata}}
