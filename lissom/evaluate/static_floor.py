"""The floor of static embeddings: the mean of the word table's vectors with a small head, trained on the task alone.

It is the student of `distill.method: static` without a teacher's answers, from the base model's word table, which no
fine-tuning has touched. The vocabulary is not trimmed, since that table knows words that train lacks.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from lissom.data.tables import Table
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import VARIANT, Floor
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.variant import timed_batches
from lissom.export.exported import model_bytes, split_answers
from lissom.export.onnx import export_onnx
from lissom.models.compressed import CompressedModel
from lissom.models.static_student import static_student, weigh_by_rarity
from lissom.models.vocabulary import count_tokens
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets

STATIC_VECTORS = "static embeddings"

_EPOCHS, _FEWEST_STEPS = 5, 200
_TRAINING = TrainingParams(learning_rate=1e-2, batch_size=128, freeze_word_table=False, precision="float32")


def static_floor(tables: Mapping[str, Table], base: CompressedModel, params: EvaluateParams, scratch: Path) -> Floor:
    """Train on train, keep the best epoch by dev, and measure the exported file on test."""
    task, lesson = base.manifest.task, Lesson(tables=tables, scratch=scratch)
    student = static_student(base, embedding=256, classifier=256, dropout=0.2, seed=_TRAINING.seed)
    train = lesson.encode(student, "train")
    weigh_by_rarity(student, count_tokens(train.tokens, student.network.config.vocab_size))
    epochs = max(_EPOCHS, _FEWEST_STEPS / math.ceil(len(train) / _TRAINING.batch_size))
    training = _TRAINING.model_copy(update={"epochs": epochs})
    trained = lesson.train(
        "floor", student.network, train, student.pad_id, against_targets(task), training,
        identity=STATIC_VECTORS, score=lesson.scorer(student, training),
    )  # fmt: skip
    assert trained.best_score is not None, "every epoch is scored"
    student.network.cpu()
    folder = scratch / "static_floor"
    folder.mkdir()
    exported, test = export_onnx(student, folder), lesson.encode(student, "test")
    meter = task.meter()
    meter.add(split_answers(exported, test, task), test.targets)
    batches = timed_batches(test, 1, student.pad_id)
    runners = {VARIANT: exported.runner(batches, threads=1)}
    times = measure_latency(runners, [1] * len(batches), threads=1, seconds=params.seconds, retries=params.retries)
    return Floor(
        model=STATIC_VECTORS,
        score=meter.result(),
        dev_score=trained.best_score,
        settings={"vocabulary": student.network.config.vocab_size, "epochs": epochs},
        latency=times.latency(VARIANT),
        conditions=times.conditions,
        megabytes=model_bytes(exported.files) / 1e6,
    )
