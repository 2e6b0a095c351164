"""Results of an evaluation: written by `evaluate`, read by the report and the registry; imports no torch."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lissom.evaluate.conditions import Conditions
from lissom.evaluate.config import Baseline
from lissom.evaluate.latency import Latency
from lissom.evaluate.paired import Paired
from lissom.export.exported import ExportRecord
from lissom.interval import Interval
from lissom.models.sizes import Anatomy
from lissom.section import Section
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality

VARIANT = "variant"
EAGER, ONNX_FLOAT = "eager", "onnx"
"""Names of the runners whose latency is measured, besides the int8 files: the variant, and two forms of the teacher."""


class Setting(Section):
    """Latency of all runners at one batch size and number of threads."""

    batch_size: int
    threads: int
    """One thread is pinned to a CPU."""
    runners: dict[str, Latency]
    speedups: dict[Baseline, Interval]
    """Median latency of a baseline over the variant's, paired by round."""
    strongest_int8: str
    """The faster one of the plain int8 files in this setting."""
    conditions: Conditions


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
    """At batch 1 on one pinned thread; the speeds are measured in turn."""


class ExitSweep(Section):
    """A model with exits over its speeds."""

    settings: tuple[ExitSetting, ...]
    """Full depth first."""
    chosen: float
    """The default speed of the file, at which all other results are measured."""
    conditions: Conditions
    """Of the latencies, which are of one session."""


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
    """One text on one pinned thread, in warm calls. Of a linear model it includes finding the n-grams; of static
    embeddings, as of all variants, it does not include the tokenizer."""
    conditions: Conditions
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
    """Results of a dynamic quantisation of the teacher without training; its latency is in every setting."""

    name: str
    """Name of the runner."""
    quality: Quality
    megabytes: float


class EngineSpeed(Section):
    """Speed of one engine that writes texts, on one pinned thread."""

    prompt: Latency
    """Of reading a prompt, which is the time to the first token; `examples_per_second` counts tokens."""
    token: Latency
    """Of a token after the prompt."""
    prompt_speedup: Interval
    """Over the teacher in eager torch."""
    token_speedup: Interval
    peak_rss_megabytes: float | None
    """Of llama.cpp's server with the file; of the ONNX graph it is `Evaluation.peak_rss_megabytes`."""


class Writing(Section):
    """Speed of writing by all engines, in turn in one process."""

    prompt_tokens: int
    engines: dict[str, EngineSpeed]
    """`eager` is the teacher in torch; the final model's are `onnx` and the types of its GGUF files."""
    prompt_conditions: Conditions
    token_conditions: Conditions


class KernelTime(Section):
    """What all nodes with the same kernel take of a call."""

    kernel: str
    nodes: int
    microseconds: float
    """Per call, on one pinned thread."""


class Evaluation(Section):
    """Results of one variant."""

    variant: str
    metric: Metric
    quality: Quality
    paired: Paired
    """Score against the teacher's file on the same examples."""
    exported: ExportRecord
    megabytes: float
    """Size of the ONNX file, 10^6 bytes."""
    tokenizer_megabytes: float
    peak_rss_megabytes: float
    """Peak memory of a process that only serves the file."""
    anatomy: Anatomy
    settings: tuple[Setting, ...]
    edits: tuple[str, ...]
    kernels: tuple[KernelTime, ...] = ()
    """What answers one text consist of; only of the teacher and the final variant."""
    writing: Writing | None = None
    """Only for the final variant of a language model."""
    exits: ExitSweep | None = None
    """Only for models with exits."""
    floors: tuple[Floor, ...] = ()
    """Cheap baselines; only in the teacher's evaluation."""
    absent_floors: dict[str, str] = Field(default_factory=dict)
    """Baselines that could not be made, by name, with the reason."""
    plain_int8: tuple[PlainInt8, ...] = ()
    """Dynamic-quantisation baselines; only in the teacher's evaluation."""
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
        """Return the setting of the headline figures: batch 1 on one pinned thread, which holds on a busy machine."""
        return next(setting for setting in self.settings if setting.batch_size == setting.threads == 1)
