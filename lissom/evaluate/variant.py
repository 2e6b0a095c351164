"""Evaluation of one variant's exported file, next to the teacher in the same process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.artifacts import TOKENIZER
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import TEACHER_EAGER, TEACHER_ONNX, VARIANT, Evaluation, ExitSweep, Setting
from lissom.evaluate.latency import measure_latency
from lissom.export.exported import Exported, Runner, read_record, split_logits
from lissom.machine import describe_machine, describe_versions
from lissom.models.anatomy import anatomy
from lissom.models.compressed import CompressedModel, logits_of

_TEXTS_TIMED = 256


@dataclass(frozen=True)
class Subject:
    """A model with its exported file and the test set, tokenised for it."""

    model: CompressedModel
    """Used for its structure and as the eager baseline; all other results are measured on the exported file."""
    exported: Exported
    test: Encoded


def evaluate_variant(
    variant: str, subject: Subject, teacher: Subject, params: EvaluateParams, exits: ExitSweep | None = None
) -> Evaluation:
    """Measure quality, size, memory and speed of an exported variant.

    Args:
        variant: name of the variant.
        subject: the variant.
        teacher: the teacher, whose model is the eager baseline and whose file is the fp32 ONNX baseline.
        params: batch sizes, samples and so on.
        exits: for a variant with exits, its results at all speeds.
    """
    logits, reference = (split_logits(model.exported, model.test) for model in (subject, teacher))
    task, record = subject.model.manifest.task, read_record(subject.exported.folder)
    threads = sorted({1, torch.get_num_threads()})
    settings = [
        _measure_setting(subject, teacher, size, count, params) for size in params.batch_sizes for count in threads
    ]
    torch.set_num_threads(threads[-1])
    return Evaluation(
        variant=variant,
        metric=task.metric,
        quality=task.quality(logits, reference, subject.test.targets, params.calibration_bins),
        exported=record,
        megabytes=next(iter(record.files.values())) / 1e6,
        tokenizer_megabytes=record.files[TOKENIZER] / 1e6,
        peak_rss_megabytes=peak_rss(subject.exported.folder),
        anatomy=anatomy(subject.model.network),
        settings=tuple(settings),
        edits=tuple(edit.describe() for edit in subject.model.manifest.edits),
        exits=exits,
        machine=describe_machine(),
        versions=describe_versions(),
    )


def eager_runner(model: CompressedModel, batches: list[Batch]) -> Runner:
    """Return a runner of a model in eager torch."""

    def run(number: int) -> None:
        with torch.inference_mode():
            logits_of(model.network, batches[number])

    return run


def timed_batches(data: Encoded, batch_size: int, pad: int) -> list[Batch]:
    """Return batches of the first test examples in their original order, for realistic lengths and padding."""
    count = min(len(data), max(_TEXTS_TIMED, batch_size)) // batch_size * batch_size or len(data)
    order: NDArray[np.int64] = np.arange(count)
    return [collate(data, order[start : start + batch_size], pad) for start in range(0, count, batch_size)]


def peak_rss(folder: Path) -> float:
    """Return the peak memory in MB of a fresh process that serves the folder."""
    command = [sys.executable, "-m", "lissom.serving.footprint", str(folder)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    return float(process.stdout)


def _measure_setting(
    subject: Subject, teacher: Subject, batch_size: int, threads: int, params: EvaluateParams
) -> Setting:
    torch.set_num_threads(threads)
    batches, teacher_batches = (timed_batches(side.test, batch_size, side.model.pad_id) for side in (subject, teacher))
    runners = {
        VARIANT: subject.exported.runner(batches, threads),
        TEACHER_EAGER: eager_runner(teacher.model, teacher_batches),
        TEACHER_ONNX: teacher.exported.runner(teacher_batches, threads),
    }
    times = measure_latency(runners, len(batches), batch_size, params.samples, params.seconds)
    return Setting(
        batch_size=batch_size,
        threads=threads,
        runners=times,
        speedup_eager=times[TEACHER_EAGER].p50 / times[VARIANT].p50,
        speedup_onnx=times[TEACHER_ONNX].p50 / times[VARIANT].p50,
    )
