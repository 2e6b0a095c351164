"""Evaluation of one variant's exported file, next to the teacher in the same process."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lissom.artifacts import FINAL, TEACHER, TOKENIZER
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.evaluate.config import Baseline, EvaluateParams
from lissom.evaluate.figures import (
    EAGER,
    ONNX_FLOAT,
    VARIANT,
    Evaluation,
    ExitSweep,
    KernelTime,
    Setting,
    Writing,
)
from lissom.evaluate.kernel_times import kernel_times
from lissom.evaluate.latency import Timing, measure_latency
from lissom.evaluate.paired import compare_scores
from lissom.evaluate.writing import measure_writing
from lissom.export.exported import Exported, Runner, model_bytes, read_record, split_answers
from lissom.machine import describe_machine, describe_versions
from lissom.models.anatomy import anatomy
from lissom.models.compressed import CompressedModel
from lissom.models.generation import TorchModel
from lissom.tasks.language_modeling import LanguageModeling

_TEXTS_TIMED = 256
_MOST_WINDOWS = 2**32
"""Of a text: more than any has."""


@dataclass(frozen=True)
class Subject:
    """A model with its exported file and the test set, tokenised for it."""

    model: CompressedModel
    """Used for its structure and as the eager baseline; all other results are measured on the exported file."""
    exported: Exported
    test: Encoded


@dataclass(frozen=True)
class Reference:
    """What variants are compared with."""

    teacher: Subject
    int8: Mapping[str, Exported]
    """Plain int8 files of the teacher, by name."""


def evaluate_variant(
    variant: str, subject: Subject, reference: Reference, params: EvaluateParams, exits: ExitSweep | None = None
) -> tuple[Evaluation, NDArray[np.float32], NDArray[np.float32]]:
    """Measure quality, size, memory and speed of an exported variant.

    Args:
        variant: name of the variant.
        subject: the variant.
        reference: the teacher in all its forms.
        params: batch sizes, time and so on.
        exits: for a variant with exits, its results at all speeds.

    Returns:
        the results, and on the test set what the task's metrics need of the logits of the variant and of the teacher's
        file, `[rows, ...]`.
    """
    task, record = subject.model.manifest.task, read_record(subject.exported.folder)
    answers, teacher_answers = (split_answers(side.exported, side.test, task) for side in (subject, reference.teacher))
    judged, teacher_judged = subject.test.judged, reference.teacher.test.judged
    quality = task.quality(answers, teacher_answers, judged.targets, params.calibration_bins)
    if not np.array_equal(judged.targets, teacher_judged.targets):  # a language model with other tokens
        quality = quality.model_copy(update={"agreement": None})
    evaluation = Evaluation(
        variant=variant,
        metric=task.metric,
        quality=quality,
        paired=compare_scores(task, answers, teacher_answers, judged, teacher_judged),
        exported=record,
        megabytes=model_bytes(record.files) / 1e6,
        tokenizer_megabytes=record.files[TOKENIZER] / 1e6,
        peak_rss_megabytes=peak_rss(subject.exported.folder),
        anatomy=anatomy(subject.model.network),
        settings=measure_settings(subject, reference, params, is_final=variant == FINAL),
        edits=tuple(edit.describe() for edit in subject.model.manifest.edits),
        kernels=_kernels(subject) if variant in (TEACHER, FINAL) else (),
        writing=_writing(subject, reference, params) if variant == FINAL else None,
        exits=exits,
        machine=describe_machine(),
        versions=describe_versions(),
    )
    return evaluation, answers, teacher_answers


def _kernels(subject: Subject) -> tuple[KernelTime, ...]:
    """Return the kernels that answer the timed text of median length."""
    batches = sorted(timed_batches(subject.test, 1, subject.model.pad_id), key=lambda batch: batch.mask.sum())
    return kernel_times(subject.exported, batches[len(batches) // 2])


def _writing(subject: Subject, reference: Reference, params: EvaluateParams) -> Writing | None:
    if not isinstance(subject.model.manifest.task, LanguageModeling):
        return None
    return measure_writing(reference.teacher.model, subject.exported, subject.test, params)


def measure_settings(
    subject: Subject, reference: Reference, params: EvaluateParams, *, is_final: bool
) -> tuple[Setting, ...]:
    """Time a variant and the baselines: one text on one pinned thread; the final variant also on all threads.

    Args:
        subject: the variant.
        reference: the baselines.
        params: batch sizes and time.
        is_final: whether to measure one text and other batch sizes on all threads.
    """
    every = torch.get_num_threads()
    plans = [(1, 1)]
    if is_final:
        plans += [(size, every) for size in sorted({1, *params.batch_sizes}) if (size, every) not in plans]
    try:
        return tuple(_measure_setting(subject, reference, size, threads, params) for size, threads in plans)
    finally:
        torch.set_num_threads(every)


def _measure_setting(
    subject: Subject, reference: Reference, batch_size: int, threads: int, params: EvaluateParams
) -> Setting:
    torch.set_num_threads(threads)
    teacher = reference.teacher
    batches, teacher_batches = timed_together(
        [(side.test, side.model.pad_id) for side in (subject, teacher)], batch_size
    )
    runners = {
        VARIANT: subject.exported.runner(batches, threads),
        EAGER: eager_runner(teacher.model, teacher_batches, teacher.exported.serving.get("beams", 1)),
        ONNX_FLOAT: teacher.exported.runner(teacher_batches, threads),
        **{name: exported.runner(teacher_batches, threads) for name, exported in reference.int8.items()},
    }
    examples = [len(batch.indices) for batch in batches]
    timing = measure_latency(runners, examples, threads=threads, seconds=params.seconds, retries=params.retries)
    return make_setting(timing, batch_size, threads, list(reference.int8))


def make_setting(timing: Timing, batch_size: int, threads: int, int8: Sequence[str]) -> Setting:
    """Return a timing of the variant and the baselines as a setting; `int8` names the int8 files."""
    latencies = timing.latencies()
    strongest = min(int8, key=lambda name: latencies[name].p50)
    baselines: dict[Baseline, str] = {"eager": EAGER, "onnx": ONNX_FLOAT, "int8": strongest}
    return Setting(
        batch_size=batch_size,
        threads=threads,
        runners=latencies,
        speedups={name: timing.ratio(runner, VARIANT) for name, runner in baselines.items()},
        strongest_int8=strongest,
        conditions=timing.conditions,
    )


def eager_runner(model: CompressedModel, batches: list[Batch], beams: int = 1) -> Runner:
    """Return a runner of a model in eager torch; an encoder-decoder writes with a beam."""
    task = model.manifest.task
    torch_model = TorchModel(model.network, task.max_length, beams)

    def run(number: int) -> None:
        with torch.inference_mode():
            if task.writes_texts:
                torch_model.generate(batches[number])
            else:
                torch_model.logits(batches[number])

    return run


def timed_batches(data: Encoded, batch_size: int, pad: int) -> list[Batch]:
    """Return batches of a random sample of the examples, always the same one, with lengths and padding as they come."""
    (batches,) = timed_together([(data, pad)], batch_size)
    return batches


def timed_together(sides: Sequence[tuple[Encoded, int]], batch_size: int) -> list[list[Batch]]:
    """Return the batches of `timed_batches` for several models, batch by batch of the same texts.

    Texts that are cut into other windows by other tokens are compared window by window, as many as all sides have.

    Args:
        sides: for every model, the same examples in its tokens, and the id of its padding.
        batch_size: examples of a batch.
    """
    places = _common_examples([data for data, _ in sides])
    count = min(len(places[0]), max(_TEXTS_TIMED, batch_size)) // batch_size * batch_size or len(places[0])
    order = timed_examples(len(places[0]), count)
    return [
        [collate(data, own[order[start : start + batch_size]], pad) for start in range(0, count, batch_size)]
        for (data, pad), own in zip(sides, places, strict=True)
    ]


def _common_examples(sides: Sequence[Encoded]) -> list[NDArray[np.int64]]:
    """Return the indices of the examples that are the same part of the same text on all sides, in one order."""
    names = []
    for data in sides:
        texts = np.arange(len(data)) if data.text_numbers is None else data.text_numbers
        names.append(texts * _MOST_WINDOWS + np.arange(len(data)) - np.searchsorted(texts, texts))
    common = names[0]
    for other in names[1:]:
        common = np.intersect1d(common, other)
    return [np.searchsorted(own, common) for own in names]


def timed_examples(available: int, count: int = _TEXTS_TIMED) -> NDArray[np.int64]:
    """Return the numbers of the test examples that latencies are measured on, a random sample, always the same one."""
    order: NDArray[np.int64] = np.random.default_rng(0).permutation(available)[:count]
    return order


def peak_rss(folder: Path) -> float:
    """Return the peak memory in MB of a fresh process that serves the folder."""
    command = [sys.executable, "-m", "lissom.serving.footprint", str(folder)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    return float(process.stdout)
