"""Params of the runs and of the registry."""

from pydantic import Field

from lissom.section import Section


class TrackingParams(Section):
    """MLflow settings; the server is set by MLFLOW_TRACKING_URI."""

    experiment: str = "lissom"
    """MLflow experiment of all stages."""

    system_metrics: bool = True
    """Log CPU, memory and GPU load of every stage."""


class GatesParams(Section):
    """Requirements that a model must meet to get an alias in the registry."""

    max_score_drop: float = Field(default=0.03, ge=0, le=1)
    """Largest loss against the teacher on test, in units of the metric (0.03 of accuracy: three points)."""

    min_speedup: float = Field(default=4.0, gt=0)
    """Least ratio of median latency, eager fp32 teacher to artefact, at batch 1 with all threads."""

    max_megabytes: float = Field(default=30.0, gt=0)
    """Largest artefact in MB (10^6 bytes)."""
