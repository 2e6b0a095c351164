"""The figures of an evaluation, as values: written by `evaluate`, read by the report and the registry, torch-free."""

from typing import Any

from lissom.evaluate.latency import Latency
from lissom.export.exported import ExportRecord
from lissom.models.sizes import Anatomy
from lissom.section import Section
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality

VARIANT, TEACHER_EAGER, TEACHER_ONNX = "variant", "teacher_eager", "teacher_onnx"
"""Names of the runners that are timed in turn."""


class Setting(Section):
    """Latency of all runners at one batch size and number of threads."""

    batch_size: int
    threads: int
    runners: dict[str, Latency]
    speedup_eager: float
    """Median latency of the eager fp32 teacher over the variant's."""
    speedup_onnx: float | None
    """The same for the teacher's fp32 ONNX file, where it ran beside."""


class ExitSetting(Section):
    """A model with exits at one speed."""

    speed: float
    """How uncertain an answer may be to leave; below 0 none does."""
    score: float
    """On the test set."""
    dev_score: float
    """Measured when the file was made; the speed was chosen by it."""
    mean_depth: float
    """Blocks that a test text takes."""
    flops: float
    """Mean operations of a test text, 2 per multiply-add, counted in torch for the blocks it takes."""
    flops_ratio: float
    """Operations at full depth over these."""
    latency: Latency
    """Batch 1, all threads, all speeds in turn."""


class ExitSweep(Section):
    """A model with exits over its speeds."""

    settings: tuple[ExitSetting, ...]
    """Full depth first."""
    chosen: float
    """The speed that the file answers at by itself, and at which all other figures were taken."""


class Floor(Section):
    """What a linear model reaches (`lissom.evaluate.floor`)."""

    model: str
    """In words."""
    score: float
    """On the test set."""
    dev_score: float
    features: int
    strength: float
    milliseconds: float
    """Mean time for one test text."""
    megabytes: float
    """Size of the coefficients and the vocabulary's keys in memory, as float64 and UTF-8."""


class PlainInt8(Section):
    """What dynamic quantisation of the teacher gives."""

    quality: Quality
    megabytes: float
    setting: Setting
    """Batch 1, all threads, timed against the eager teacher in turn."""


class Evaluation(Section):
    """What is known of one variant."""

    variant: str
    metric: Metric
    quality: Quality
    exported: ExportRecord
    megabytes: float
    """Size of the ONNX file, 10^6 bytes."""
    tokenizer_megabytes: float
    peak_rss_megabytes: float
    """Of a process that only serves the file."""
    anatomy: Anatomy
    settings: tuple[Setting, ...]
    edits: tuple[str, ...]
    exits: ExitSweep | None = None
    """Only where inputs can leave early."""
    floor: Floor | None = None
    """Of the teacher's evaluation: what a linear model reaches."""
    plain_int8: PlainInt8 | None = None
    """Of the teacher's evaluation: what dynamic quantisation alone gives."""
    kwh: float = 0.0
    """Energy of the evaluation itself; known when it is over."""
    machine: dict[str, Any]
    versions: dict[str, str]

    @property
    def headline(self) -> Setting:
        """Return the setting that headlines speak of: batch 1, all threads."""
        return max(
            (setting for setting in self.settings if setting.batch_size == 1), key=lambda setting: setting.threads
        )
