"""Params of the evaluation."""

from typing import Annotated, Literal

from pydantic import Field

from lissom.section import Section

Baseline = Literal["eager", "onnx", "int8"]
"""Forms of the teacher that a variant is compared with: eager fp32 torch, its fp32 ONNX file, and the faster one of its
plain int8 files."""


class EvaluateParams(Section):
    """How quality and speed are measured."""

    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 32), min_length=1)
    """Batch sizes at which the final variant is measured on all threads; 1 is always among them. Every variant is
    measured at 1 on one pinned thread."""

    seconds: float = Field(default=4.0, gt=0)
    """Time of measuring for one batch size and number of threads. Five undisturbed rounds are made in any case,
    and slow models get up to `retries` times more until 20 batches were timed."""

    retries: int = Field(default=2, ge=0)
    """How many times `seconds` more are spent if other processes disturb the measurement."""

    calibration_bins: int = Field(default=15, ge=2)
    """Bins of the expected calibration error."""
