"""Score, operations and measured latency of a model with exits over its speeds, and the choice of the speed.

The speed is chosen on the dev set at export, and then evaluated on the test set.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lissom.data.batches import sorted_batches
from lissom.data.encoding import Encoded
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import ExitSetting, ExitSweep
from lissom.evaluate.latency import Timing, measure_latency
from lissom.evaluate.variant import timed_batches
from lissom.export.config import ExportParams
from lissom.export.exported import TriedSpeed, read_record
from lissom.export.onnx import FULL_DEPTH
from lissom.export.onnx_file import OnnxFile
from lissom.models.compressed import CompressedModel
from lissom.models.flops import flops_by_depth
from lissom.tasks.metric import Metric
from lissom.tasks.task import Task

_BATCH_SIZE = 32
_SECONDS = 1.0
_RETRIES = 2


def try_speeds(
    model: CompressedModel, folder: Path, dev: Encoded, reference: float, params: ExportParams
) -> tuple[float, list[TriedSpeed]]:
    """Measure an exported file with exits on dev at all speeds; return the chosen speed and the measurements.

    Args:
        model: the exported model.
        folder: the exported folder.
        dev: dev set, tokenised for the model.
        reference: dev score of the teacher.
        params: the speeds to measure, and the largest loss of dev score.
    """
    speeds = [FULL_DEPTH, *params.speeds]
    times = _times(model, folder, dev, speeds, _SECONDS * len(speeds) / 2, _RETRIES)
    trials = [
        TriedSpeed(
            speed=speed, milliseconds=times.latency(str(speed)).mean,
            dev_score=_score_at(OnnxFile(folder, speed=speed), model.manifest.task, dev, model.pad_id)[0],
        )
        for speed in speeds
    ]  # fmt: skip
    return choose(trials, reference, params.max_speed_drop, model.manifest.task.metric), trials


def choose(trials: Sequence[TriedSpeed], reference: float, max_drop: float, metric: Metric) -> float:
    """Return the fastest speed whose dev score is within `max_drop` of the reference; if none is, the best-scoring."""
    good = [trial for trial in trials if metric.drop(reference, trial.dev_score) <= max_drop]
    if good:
        return min(good, key=lambda trial: trial.milliseconds).speed
    best = metric.best(*(trial.dev_score for trial in trials))
    return next(trial.speed for trial in trials if trial.dev_score == best)


def sweep_speeds(model: CompressedModel, folder: Path, test: Encoded, params: EvaluateParams) -> ExitSweep:
    """Evaluate an exported file with exits on the test set, at every speed that was measured at export."""
    record, task = read_record(folder), model.manifest.task
    speeds = [trial.speed for trial in record.tried_speeds]
    flops = flops_by_depth(model.network, np.unique(test.lengths).tolist())
    times = _times(model, folder, test, speeds, params.seconds * len(speeds) / 2, params.retries)
    settings = []
    for trial in record.tried_speeds:
        score, depth = _score_at(OnnxFile(folder, speed=trial.speed), task, test, model.pad_id)
        exit_flops = [flops[int(length)][blocks - 1] for length, blocks in zip(test.lengths, depth, strict=True)]
        full_flops = [flops[int(length)][-1] for length in test.lengths]
        settings.append(
            ExitSetting(
                speed=trial.speed,
                score=score,
                dev_score=trial.dev_score,
                mean_depth=float(depth.mean()),
                flops=float(np.mean(exit_flops)),
                flops_ratio=float(np.sum(full_flops) / np.sum(exit_flops)),
                latency=times.latency(str(trial.speed)),
            )
        )
    return ExitSweep(settings=tuple(settings), chosen=OnnxFile(folder).serving["speed"], conditions=times.conditions)


def _times(
    model: CompressedModel, folder: Path, data: Encoded, speeds: Sequence[float], seconds: float, retries: int
) -> Timing:
    batches = timed_batches(data, 1, model.pad_id)
    runners = {str(speed): OnnxFile(folder, speed=speed).runner(batches, threads=1) for speed in speeds}
    return measure_latency(runners, [1] * len(batches), threads=1, seconds=seconds, retries=retries)


def _score_at(exported: OnnxFile, task: Task, data: Encoded, pad: int) -> tuple[float, NDArray[np.int64]]:
    """Return the score at the file's speed, and the number of executed blocks per example, `[examples]`."""
    meter, depths = task.meter(), np.empty(len(data), dtype=np.int64)
    for batch in sorted_batches(data, _BATCH_SIZE, pad):
        answers, depth = exported.depths(batch)
        meter.add(answers, batch.targets.numpy())
        depths[batch.indices] = depth
    return meter.result(), depths
