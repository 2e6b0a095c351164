"""How early may inputs leave? Score, operations and measured latency over the speeds, and the speed to serve at.

The speed is chosen when the file is made, on the dev set, and then described on the test set.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.data.batches import sorted_batches
from lissom.data.encoding import Encoded
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import ExitSetting, ExitSweep
from lissom.evaluate.latency import Latency, measure_latency
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
_SAMPLES, _SECONDS = 200, 1.0


def try_speeds(
    model: CompressedModel, folder: Path, dev: Encoded, reference: float, params: ExportParams
) -> tuple[float, list[TriedSpeed]]:
    """Measure an exported file with exits on dev at all speeds; return the speed to serve at, and what was measured.

    Args:
        model: what was exported.
        folder: the exported folder.
        dev: dev set in the model's tokens.
        reference: dev score of the teacher.
        params: the speeds to try, and what one may cost.
    """
    speeds = [FULL_DEPTH, *params.speeds]
    times = _times(model, folder, dev, speeds, _SAMPLES, _SECONDS * len(speeds) / 2)
    tried = [
        TriedSpeed(
            speed=speed, milliseconds=times[speed].mean,
            dev_score=_score_at(OnnxFile(folder, speed=speed), model.manifest.task, dev, model.pad_id)[0],
        )
        for speed in speeds
    ]  # fmt: skip
    return choose(tried, reference, params.max_speed_drop, model.manifest.task.metric), tried


def choose(tried: Sequence[TriedSpeed], reference: float, max_drop: float, metric: Metric) -> float:
    """Return the fastest speed whose dev score is within `max_drop` of the reference; where none is, the best."""
    good = [one for one in tried if metric.drop(reference, one.dev_score) <= max_drop]
    if good:
        return min(good, key=lambda one: one.milliseconds).speed
    best = metric.best(*(one.dev_score for one in tried))
    return next(one.speed for one in tried if one.dev_score == best)


def sweep_speeds(model: CompressedModel, folder: Path, test: Encoded, params: EvaluateParams) -> ExitSweep:
    """Describe an exported file with exits on the test set, at every speed that was tried when it was made."""
    record, task = read_record(folder), model.manifest.task
    speeds = [one.speed for one in record.tried_speeds]
    flops = flops_by_depth(model.network, np.unique(test.lengths).tolist())
    times = _times(model, folder, test, speeds, params.samples, params.seconds * len(speeds) / 2)
    settings = []
    for tried in record.tried_speeds:
        score, depth = _score_at(OnnxFile(folder, speed=tried.speed), task, test, model.pad_id)
        spent = [flops[int(length)][blocks - 1] for length, blocks in zip(test.lengths, depth, strict=True)]
        whole = [flops[int(length)][-1] for length in test.lengths]
        settings.append(
            ExitSetting(
                speed=tried.speed,
                score=score,
                dev_score=tried.dev_score,
                mean_depth=float(depth.mean()),
                flops=float(np.mean(spent)),
                flops_ratio=float(np.sum(whole) / np.sum(spent)),
                latency=times[tried.speed],
            )
        )
    return ExitSweep(settings=tuple(settings), chosen=OnnxFile(folder).serving["speed"])


def _times(
    model: CompressedModel, folder: Path, data: Encoded, speeds: Sequence[float], samples: int, seconds: float
) -> dict[float, Latency]:
    batches, threads = timed_batches(data, 1, model.pad_id), torch.get_num_threads()
    runners = {str(speed): OnnxFile(folder, speed=speed).runner(batches, threads) for speed in speeds}
    times = measure_latency(runners, len(batches), 1, samples, seconds)
    return {speed: times[str(speed)] for speed in speeds}


def _score_at(exported: OnnxFile, task: Task, data: Encoded, pad: int) -> tuple[float, NDArray[np.int64]]:
    """Return the score at the file's speed, and the blocks that every example took, `[examples]`."""
    meter, depths = task.meter(), np.empty(len(data), dtype=np.int64)
    for batch in sorted_batches(data, _BATCH_SIZE, pad):
        answers, depth = exported.depths(batch)
        meter.add(answers, batch.targets.numpy())
        depths[batch.indices] = depth
    return meter.result(), depths
