"""Results of an evaluation: written by `evaluate`, read by the report and the registry; imports no torch."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lissom.evaluate.latency import Latency
from lissom.export.exported import ExportRecord
from lissom.models.sizes import Anatomy
from lissom.section import Section
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality

VARIANT, TEACHER_EAGER, TEACHER_ONNX = "variant", "teacher_eager", "teacher_onnx"
"""Names of the runners whose latency is measured."""


class Setting(Section):
    """Latency of all runners at one batch size and number of threads."""

    batch_size: int
    threads: int
    runners: dict[str, Latency]
    speedup_eager: float
    """Median latency of the eager fp32 teacher over the variant's."""
    speedup_onnx: float | None
    """The same for the teacher's fp32 ONNX file, if it was measured."""


class ExitSetting(Section):
    """A model with exits at one speed."""

    speed: float
    """Largest uncertainty at which an example leaves; below 0 none leaves early."""
    score: float
    """On the test set."""
    dev_score: float
    """Measured at export; the speed was chosen by it."""
    mean_depth: float
    """Mean number of blocks executed for a test text."""
    flops: float
    """Mean operations of a test text, 2 per multiply-add, counted in torch for the executed blocks."""
    flops_ratio: float
    """Operations at full depth over `flops`."""
    latency: Latency
    """At batch 1 with all threads; the speeds are measured in turn."""


class ExitSweep(Section):
    """A model with exits over its speeds."""

    settings: tuple[ExitSetting, ...]
    """Full depth first."""
    chosen: float
    """The default speed of the file, at which all other results are measured."""


class Floor(Section):
    """Results of a cheap baseline that has no teacher (`lissom.evaluate.floor`)."""

    model: str
    """In words."""
    score: float
    """On the test set."""
    dev_score: float
    settings: dict[str, float]
    """What was chosen or counted, by name."""
    latency: Latency
    """At batch 1: warm calls with one test text each. Of a linear model it includes finding the n-grams; of static
    embeddings, as of all variants, it does not include the tokenizer."""
    megabytes: float
    """Of a linear model the coefficients and the vocabulary's keys in memory, as float64 and UTF-8; else the file."""


def strongest(floors: Sequence[Floor], metric: Metric) -> Floor | None:
    """Return the floor with the best dev score, None if there is none; the test score has no part in the choice."""
    best: Floor | None = None
    for floor in floors:
        if best is None or metric.improves(floor.dev_score, best.dev_score):
            best = floor
    return best


class PlainInt8(Section):
    """Results of dynamic quantisation of the teacher."""

    quality: Quality
    megabytes: float
    setting: Setting
    """At batch 1 with all threads, measured in turn with the eager teacher."""


class Evaluation(Section):
    """Results of one variant."""

    variant: str
    metric: Metric
    quality: Quality
    exported: ExportRecord
    megabytes: float
    """Size of the ONNX file, 10^6 bytes."""
    tokenizer_megabytes: float
    peak_rss_megabytes: float
    """Peak memory of a process that only serves the file."""
    anatomy: Anatomy
    settings: tuple[Setting, ...]
    edits: tuple[str, ...]
    exits: ExitSweep | None = None
    """Only for models with exits."""
    floors: tuple[Floor, ...] = ()
    """Cheap baselines; only in the teacher's evaluation."""
    absent_floors: dict[str, str] = Field(default_factory=dict)
    """Baselines that could not be made, by name, with the reason."""
    plain_int8: PlainInt8 | None = None
    """Dynamic-quantisation baseline; only in the teacher's evaluation."""
    kwh: float = 0.0
    """Energy of the evaluation itself, set at its end."""
    machine: dict[str, Any]
    versions: dict[str, str]

    @property
    def strongest_floor(self) -> Floor | None:
        """Return the floor with the best dev score, None if there is none."""
        return strongest(self.floors, self.metric)

    @property
    def headline(self) -> Setting:
        """Return the setting of the headline figures: batch 1, all threads."""
        return max(
            (setting for setting in self.settings if setting.batch_size == 1), key=lambda setting: setting.threads
        )
