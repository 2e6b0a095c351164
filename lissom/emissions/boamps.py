"""Reports in the form of BoAmps, Boavizta's data model for the energy of AI tasks (github.com/Boavizta/BoAmps, 1.1.0).

Keys and units are those of its JSON schemas, `model/*.json`: kWh, seconds, billions of parameters, gigabytes.
CodeCarbon's own BoAmps output maps the data of a tracker at its end; here measurements of several stages come together
later.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lissom.data import hub

FORMAT_VERSION = "1.1.0"
SPECIFICATION = "https://github.com/Boavizta/BoAmps/tree/main/model"


def report(
    identifier: str,
    task: Mapping[str, Any],
    measures: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    *,
    country: str,
    intensity_g_per_kwh: float,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return one report.

    Args:
        identifier: unique and the same for the same result, a digest for example.
        task: from `task`.
        measures: from `measure`, one per measured step.
        machine: from `lissom.machine.describe_machine`.
        versions: from `lissom.machine.describe_versions`.
        country: ISO 3166-1 alpha-3 code of the grid's country.
        intensity_g_per_kwh: carbon intensity of its electricity.
        now: time of the report; None takes the clock.
    """
    time = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "header": {
            "formatVersion": FORMAT_VERSION,
            "formatVersionSpecificationUri": SPECIFICATION,
            "reportId": identifier,
            "reportDatetime": time,
        },
        "task": dict(task),
        "measures": list(map(dict, measures)),
        "system": {"os": str(machine["system"]).split()[0].lower()},
        "software": {"language": "python", "version": versions["python"]},
        "infrastructure": {
            "infraType": "other",  # whether the machine is rented is not known
            "components": [
                {"componentType": "cpu", "componentName": machine["cpu"], "nbComponent": machine["sockets"]},
                {"componentType": "ram", "nbComponent": 1, "memorySize": round(machine["memory_gib"] * 2**30 / 1e9)},
            ],
        },
        "environment": {"country": country, "powerSourceCarbonIntensity": intensity_g_per_kwh},
    }


def measure(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measure of one stage from its `EnergyReading`, as stored in manifests and metrics."""
    name, _, version = str(cost["tracker"]).partition(" ")
    result = {
        "measurementMethod": name,
        "version": version,
        "cpuTrackingMode": cost["method"],
        "powerConsumption": float(cost["energy_kwh"]),
        "measurementDuration": float(cost["seconds"]),
    }
    return result | ({"gpuTrackingMode": "nvml"} if cost.get("gpu_kwh") else {})


def task(
    stage: str,
    family: str,
    algorithms: Sequence[Mapping[str, Any]],
    dataset: Mapping[str, Any],
    *,
    description: str,
    requests: int | None = None,
    accuracy: float | None = None,
) -> dict[str, Any]:
    """Return the description of a task.

    Args:
        stage: `training`, `inference` and so on.
        family: such as `textClassification`.
        algorithms: from `algorithm`, at least one.
        dataset: from `dataset`.
        description: in words.
        requests: inferences that the measures cover; None for trainings.
        accuracy: measured, 0 to 1; None if the task is judged by another metric.
    """
    optional = {"nbRequest": requests, "measuredAccuracy": accuracy}
    return {
        "taskStage": stage,
        "taskFamily": family,
        "algorithms": list(map(dict, algorithms)),
        "dataset": [dict(dataset)],
        "taskDescription": description,
        **{name: value for name, value in optional.items() if value is not None},
    }


def algorithm(
    name: str,
    base: str,
    framework: str,
    version: str,
    *,
    quantization: str | None = None,
    parameters: int | None = None,
) -> dict[str, Any]:
    """Return the description of one algorithm: its name, base model, framework and number format.

    Args:
        name: such as `fine_tune` or `first_order`.
        base: source of the base model.
        framework: `torch` or `onnxruntime`.
        version: of the framework.
        quantization: `fp32` or `int8`, if it is known.
        parameters: number of the model's parameters, if it is known.
    """
    optional = {"quantization": quantization, "parametersNumber": None if parameters is None else parameters / 1e9}
    return {
        "algorithmType": "neuralNetwork",
        "algorithmName": name,
        "foundationModelName": base,
        "framework": framework,
        "frameworkVersion": version,
        **{name: value for name, value in optional.items() if value is not None},
    }


def dataset(source: str, examples: int) -> dict[str, Any]:
    """Return the description of the input texts from the params' `data.source` and the number of texts."""
    kind, _, place = source.partition(":")
    result: dict[str, Any] = {
        "dataUsage": "input",
        "dataType": "text",
        "dataQuantity": examples,
        "source": "private" if kind == "files" else "public",
    }
    if kind == "hub":
        result["sourceUri"] = f"https://huggingface.co/datasets/{hub.parse(place)[0]}"
    return result
