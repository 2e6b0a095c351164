"""Params of the evaluation."""

from pydantic import Field

from lissom.section import Section


class EvaluateParams(Section):
    """How quality and speed are measured."""

    batch_sizes: tuple[int, ...] = Field(default=(1, 32), min_length=1)
    """Batch sizes at which latency and throughput are measured."""

    samples: int = Field(default=200, ge=10)
    """Timed calls for each runner at each setting; test texts are drawn in turn."""

    seconds: float = Field(default=4.0, gt=0)
    """Time limit for one setting: fewer samples are taken rather than more time, never below 10."""

    calibration_bins: int = Field(default=15, ge=2)
    """Bins of the expected calibration error."""
