"""BoAmps reports pass the schemas of their data model (tests/unit/boamps), and tell energies in its units."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from lissom.emissions import boamps
from lissom.machine import describe_machine, describe_versions

SCHEMAS = {path.name: json.loads(path.read_text()) for path in (Path(__file__).parent / "boamps").glob("*.json")}
REGISTRY = Registry().with_resources(
    (schema["id"], Resource.from_contents(schema, default_specification=DRAFT4)) for schema in SCHEMAS.values()
)
VALIDATOR = Draft4Validator(SCHEMAS["report_schema.json"], registry=REGISTRY)

COST = {"tracker": "codecarbon 3.3.2", "method": "model", "energy_kwh": 2.5e-3, "seconds": 60.0, "gpu_kwh": 0.0}


def problems(report) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(report)]


def example(**changes):
    model = boamps.algorithm("first_order", "owner/base", "torch", "2.13", quantization="fp32", parameters=22_000_000)
    task = boamps.task(
        "training",
        "textClassification",
        [model],
        boamps.dataset("hub:owner/data:config@main", 100),
        description="d",
        accuracy=0.9,
    )
    values = {
        "task": task,
        "measures": [boamps.measure(COST)],
        "machine": describe_machine(),
        "versions": describe_versions(),
    } | changes
    return boamps.report("id", **values, country="DEU", intensity_g_per_kwh=380.0, now=datetime(2025, 3, 1, 12, 30, tzinfo=UTC))  # fmt: skip


def test_a_report_passes_the_schema():
    report = example()
    assert problems(report) == []
    assert report["header"]["reportDatetime"] == "2025-03-01 12:30:00"
    assert report["measures"][0]["powerConsumption"] == 2.5e-3 and report["measures"][0]["measurementDuration"] == 60
    assert report["task"]["algorithms"][0]["parametersNumber"] == 0.022
    assert report["task"]["dataset"][0]["sourceUri"] == "https://huggingface.co/datasets/owner/data"
    assert report["environment"] == {"country": "DEU", "powerSourceCarbonIntensity": 380.0}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"measures": [{"measurementMethod": "codecarbon"}]}, "powerConsumption"),
        ({"machine": describe_machine() | {"sockets": 1.5}}, "nbComponent"),
        ({"task": {"taskStage": "training"}}, "algorithms"),
    ],
)
def test_the_schema_would_notice(changes, place):
    assert any(place in problem for problem in problems(example(**changes)))


def test_inferences_and_files():
    model = boamps.algorithm("int8", "base", "onnxruntime", "1.31", quantization="int8")
    task = boamps.task(
        "inference", "textRegression", [model], boamps.dataset("files:secret/place", 1), description="d", requests=1
    )
    report = example(task=task, measures=[boamps.measure(COST | {"gpu_kwh": 1e-3})])
    assert problems(report) == []
    assert "measuredAccuracy" not in report["task"] and report["task"]["nbRequest"] == 1
    assert report["task"]["dataset"][0]["source"] == "private" and "secret" not in json.dumps(report)
    assert report["measures"][0]["gpuTrackingMode"] == "nvml"
