"""What Kubeflow wants to hear of a finished task: figures for its pages, beside the artefacts that it finds by itself.

A container component tells by a file, executor_output.json, whose place and whose artefacts are described by the
executor input that Kubeflow passes on the command line.
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
        figures: flat mapping of what is shown with the task's metrics; only numbers are.
        facts: what is told of every other artefact.

    Raises:
        InputError: the executor input is not what Kubeflow sends.
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
