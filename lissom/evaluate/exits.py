"""How early may inputs leave? Accuracy, operations and measured latency over the speeds, and the speed to serve at.

The speed is chosen on the dev set and then described on the test set.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.data.batches import sorted_batches
from lissom.data.encoding import Encoded
from lissom.data.score import score_of
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import ExitSetting, ExitSweep
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.variant import onnx_runner, timed_batches
from lissom.export.onnx import FULL_DEPTH
from lissom.export.parity import exported_logits
from lissom.models.compressed import CompressedModel
from lissom.models.flops import flops_by_depth
from lissom.serving.classifier import OnnxClassifier

_BATCH_SIZE = 32


def sweep_speeds(
    model: CompressedModel,
    exported: Path,
    dev: Encoded,
    test: Encoded,
    teacher_dev_accuracy: float,
    max_accuracy_drop: float,
    params: EvaluateParams,
) -> ExitSweep:
    """Measure the exported file at every speed of the params, and at full depth; choose among them.

    The choice is the fastest by mean latency whose dev accuracy is within `max_accuracy_drop` of the teacher's;
    where none is, the most accurate.
    """
    speeds = [FULL_DEPTH, *params.speeds]
    flops = flops_by_depth(model.network, np.unique(test.lengths).tolist())
    classifier = OnnxClassifier(exported)
    batches = timed_batches(test, 1, model.pad_id)
    threads = torch.get_num_threads()
    runners = {str(speed): onnx_runner(exported, threads, batches, speed=speed) for speed in speeds}
    times = measure_latency(runners, len(batches), 1, params.samples, params.seconds * len(speeds) / 2)
    settings = []
    for speed in speeds:
        answers, depth = answers_at(classifier, test, model.pad_id, speed)
        dev_answers, _ = answers_at(classifier, dev, model.pad_id, speed)
        spent = [flops[int(length)][blocks - 1] for length, blocks in zip(test.lengths, depth, strict=True)]
        whole = [flops[int(length)][-1] for length in test.lengths]
        settings.append(
            ExitSetting(
                speed=speed,
                accuracy=float((answers == test.labels).mean()),
                dev_accuracy=float((dev_answers == dev.labels).mean()),
                mean_depth=float(depth.mean()),
                flops=float(np.mean(spent)),
                flops_ratio=float(np.sum(whole) / np.sum(spent)),
                latency=times[str(speed)],
            )
        )
    return ExitSweep(settings=tuple(settings), chosen=choose(settings, teacher_dev_accuracy - max_accuracy_drop))


def choose(settings: Sequence[ExitSetting], least_dev_accuracy: float) -> float:
    """Return the speed of the fastest setting that is accurate enough on dev, or of the most accurate."""
    good = [setting for setting in settings if setting.dev_accuracy >= least_dev_accuracy]
    if good:
        return min(good, key=lambda setting: setting.latency.mean).speed
    return max(settings, key=lambda setting: setting.dev_accuracy).speed


def exported_accuracy(exported: Path, data: Encoded, pad: int) -> float:
    """Return the share of examples that an exported model has right, at its own speed."""
    return score_of(exported_logits(OnnxClassifier(exported), data, pad).numpy(), data.labels)


def answers_at(
    classifier: OnnxClassifier, data: Encoded, pad: int, speed: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels and the depths of all examples in their places, each `[examples]`."""
    labels, depths = (np.empty(len(data), dtype=np.int64) for _ in range(2))
    for batch in sorted_batches(data, _BATCH_SIZE, pad):
        inputs = {name: getattr(batch, name).numpy() for name in classifier.serving["inputs"]}
        logits, depth = classifier.answer(inputs, speed)
        labels[batch.indices], depths[batch.indices] = logits.argmax(1), depth
    return labels, depths
