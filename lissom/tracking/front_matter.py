"""Metadata at the head of a model card, in the form that the Hugging Face hub reads (hub-docs, `modelcard.md`)."""

from typing import Any

import yaml

from lissom.data import hub
from lissom.data.config import TaskKind
from lissom.data.prepare import DataCard
from lissom.tasks.metric import Metric

LIBRARY = "lissom"
_PIPELINES: dict[TaskKind, str] = {
    "classification": "text-classification",
    "regression": "text-classification",  # on the hub also the task of scores, as for stsb
    "token_classification": "token-classification",
    "language_modeling": "text-generation",
    "translation": "translation",
}
_HUB_METRICS = {"pearson": "pearsonr", "entity_f1": "f1"}
"""Ids on hf.co/metrics that differ from ours."""


def front_matter(
    name: str,
    base: str,
    data: DataCard,
    metric: Metric,
    score: float,
    *,
    integers: bool,
    co2e_g: float,
    tracker: str,
    country: str,
    hardware: str,
) -> str:
    """Return the YAML block between two lines of `---`.

    Args:
        name: name of the model.
        base: source of the base model, as in the params; it and the data set are named where they are on the hub.
        data: card of the data set.
        metric: the task's metric.
        score: its value on the test set.
        integers: whether the file computes with integers.
        co2e_g: emissions of all trainings, in grams.
        tracker: what measured them, in words.
        country: ISO 3166-1 alpha-3 code of the place of the trainings.
        hardware: name of the processor.
    """
    metric_type = _HUB_METRICS.get(metric.name, metric.name)
    dataset: dict[str, Any] = {"name": data.name, "type": data.name, "split": "test"}
    fields: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": _PIPELINES[data.task],
        "tags": ["onnx", "onnxruntime", "model-compression", *(["int8"] if integers else [])],
    }
    kind, _, place = data.source.partition(":")
    if kind == "hub":
        path, config, revision = hub.parse(place)
        optional = {"config": config, "revision": revision}
        dataset |= {"type": path} | {key: value for key, value in optional.items() if value is not None}
        fields["datasets"] = [path]
    kind, _, place = base.partition(":")
    if kind == "hub":
        fields["base_model"] = place.partition("@")[0]
    result = {
        "task": {"type": _PIPELINES[data.task]},
        "dataset": dataset,
        "metrics": [{"type": metric_type, "value": score, "name": f"test {metric.name}"}],
    }
    fields |= {
        "metrics": [metric_type],
        "co2_eq_emissions": {
            "emissions": co2e_g,
            "source": tracker,
            "training_type": "fine-tuning",
            "geographical_location": country,
            "hardware_used": hardware,
        },
        "model-index": [{"name": name, "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"
