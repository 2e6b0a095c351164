"""All figures of one variant, taken from its exported file, next to the teacher in the same process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.artifacts import ONNX, TOKENIZER
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import TEACHER_EAGER, TEACHER_ONNX, VARIANT, Evaluation, ExitSweep, Setting
from lissom.evaluate.latency import Runner, measure_latency
from lissom.evaluate.quality import measure_quality
from lissom.export.onnx import integer_kernels
from lissom.export.parity import exported_logits
from lissom.machine import describe_machine, describe_versions
from lissom.models.anatomy import anatomy
from lissom.models.compressed import CompressedModel, logits_of
from lissom.serving.classifier import OnnxClassifier

_TEXTS_TIMED = 256


def evaluate_variant(
    variant: str,
    model: CompressedModel,
    exported: Path,
    teacher: CompressedModel,
    teacher_exported: Path,
    test: Encoded,
    teacher_test: Encoded,
    params: EvaluateParams,
    exits: ExitSweep | None = None,
) -> Evaluation:
    """Measure quality, size, memory and speed of an exported variant.

    Args:
        variant: its name.
        model: the variant in torch, for its structure only; all figures are those of the file.
        exported: folder of the variant's ONNX file.
        teacher: the teacher in torch, the eager baseline.
        teacher_exported: folder of the teacher's ONNX file, the fp32 baseline.
        test: test set in the variant's tokens.
        teacher_test: the same examples in the teacher's tokens.
        params: settings.
        exits: for a variant with exits, the speed that it is measured at and why.
    """
    speed = None if exits is None else exits.chosen
    logits = exported_logits(OnnxClassifier(exported, speed=speed), test, model.pad_id).numpy()
    teacher_logits = exported_logits(OnnxClassifier(teacher_exported), teacher_test, teacher.pad_id).numpy()
    threads = sorted({1, torch.get_num_threads()})
    settings = [
        _measure_setting(
            exported, test, model.pad_id, teacher, teacher_exported, teacher_test, size, count, params, speed
        )
        for size in params.batch_sizes
        for count in threads
    ]
    torch.set_num_threads(threads[-1])
    return Evaluation(
        variant=variant,
        quality=measure_quality(
            logits, teacher_logits, test.labels, model.manifest.task.coding, params.calibration_bins
        ),
        megabytes=(exported / ONNX).stat().st_size / 1e6,
        tokenizer_megabytes=(exported / TOKENIZER).stat().st_size / 1e6,
        peak_rss_megabytes=peak_rss(exported),
        integer_kernels=integer_kernels(exported / ONNX),
        anatomy=anatomy(model.network),
        settings=tuple(settings),
        edits=tuple(edit.describe() for edit in model.manifest.edits),
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


def onnx_runner(
    folder: Path, threads: int, batches: list[Batch], graph: str = ONNX, speed: float | None = None
) -> Runner:
    """Return a runner of an exported file with a number of threads, at a speed if it has exits."""
    classifier = OnnxClassifier(folder, threads, graph, speed=speed, spin=False)
    inputs = [{name: getattr(batch, name).numpy() for name in classifier.serving["inputs"]} for batch in batches]

    def run(number: int) -> None:
        classifier.logits(inputs[number])

    return run


def timed_batches(data: Encoded, batch_size: int, pad: int) -> list[Batch]:
    """Return the first test examples as batches in their own order: the lengths and the padding of real requests."""
    count = min(len(data), max(_TEXTS_TIMED, batch_size)) // batch_size * batch_size or len(data)
    order: NDArray[np.int64] = np.arange(count)
    return [collate(data, order[start : start + batch_size], pad) for start in range(0, count, batch_size)]


def peak_rss(folder: Path) -> float:
    """Return the peak memory in MB of a fresh process that serves the folder."""
    command = [sys.executable, "-m", "lissom.serving.footprint", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    return float(done.stdout)


def _measure_setting(
    exported: Path, test: Encoded, pad: int, teacher: CompressedModel, teacher_exported: Path, teacher_test: Encoded,
    batch_size: int, threads: int, params: EvaluateParams, speed: float | None,
) -> Setting:  # fmt: skip
    torch.set_num_threads(threads)
    batches, teacher_batches = (
        timed_batches(test, batch_size, pad),
        timed_batches(teacher_test, batch_size, teacher.pad_id),
    )
    runners = {
        VARIANT: onnx_runner(exported, threads, batches, speed=speed),
        TEACHER_EAGER: eager_runner(teacher, teacher_batches),
        TEACHER_ONNX: onnx_runner(teacher_exported, threads, teacher_batches),
    }
    times = measure_latency(runners, len(batches), batch_size, params.samples, params.seconds)
    return Setting(
        batch_size=batch_size,
        threads=threads,
        runners=times,
        speedup_eager=times[TEACHER_EAGER].p50 / times[VARIANT].p50,
        speedup_onnx=times[TEACHER_ONNX].p50 / times[VARIANT].p50,
    )
