"""Params of the runs and of the registry."""

import re
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from lissom.evaluate.config import Baseline
from lissom.section import Section


class TrackingParams(Section):
    """MLflow settings; the server is set by MLFLOW_TRACKING_URI."""

    experiment: str = "lissom"
    """MLflow experiment of all stages."""

    registered_model: Annotated[str, StringConstraints(max_length=200)] | None = None
    """Name of the registered model; null takes `lissom-` and the name of the data. A version of data with the same
    name from another source is registered without an alias; where a name is given, all its versions compete."""

    system_metrics: bool = True
    """Log CPU, memory and GPU load of every stage."""

    @field_validator("registered_model")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w.\-]+( +[\w.\-]+)*", name):
            raise ValueError(
                f"tracking.registered_model is {name!r}: only letters, digits, dots, dashes, underscores and inner "
                "spaces are allowed, since MLflow puts the name into addresses (models:/NAME/VERSION)"
            )
        return name


class GatesParams(Section):
    """Requirements that a model must meet to get an alias in the registry."""

    max_score_drop: float = Field(default=0.03, ge=0, le=1)
    """Largest loss against the teacher on test, in units of the metric: 0.03 is three points of accuracy, or 3 % of a
    perplexity."""

    min_speedup: dict[Baseline, Annotated[float, Field(gt=0)]] = Field(default={"onnx": 2.0, "int8": 1.2})
    """Least ratios of median latency, teacher to artefact, for one text on one pinned thread; the lower bound of the
    95 % interval counts. `eager` is the teacher in eager fp32 torch, `onnx` its fp32 ONNX file, `int8` the faster of
    its plain int8 files. A measurement that other load disturbed does not pass; `{}` asks nothing of the speed."""

    max_megabytes: float = Field(default=30.0, gt=0)
    """Largest artefact in MB (10^6 bytes)."""

    champion_margin: float = Field(default=0.005, ge=0, le=1)
    """A version that is faster or smaller than the champion may be this much worse on dev, in units of the metric."""
