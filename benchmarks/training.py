"""Throughput of lissom's loop against a plain Hugging Face Trainer: same student, data, loss, batch size and precision.

    python -m benchmarks.training [--seed 1]

The Trainer asks the teacher in every step, as its examples do; lissom's time includes computing the teacher's logits
once. Both train from the same weights, in turn, and are scored on the same dev set. Needs the package accelerate for
the Trainer.
"""

import importlib.util
import os
import sys
import tempfile
import time
from itertools import product
from operator import sub, truediv
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from benchmarks.teachers import Trained, params_of, teacher_of
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load
from lissom.models.students import block_student
from lissom.training.config import RecoveryParams
from lissom.training.loop import autocast_type, fit
from lissom.training.losses import against_teacher
from lissom.training.predicting import Scorer, score
from lissom.training.teacher import CachedLogits, LiveTeacher, cache_logits

LISSOM, TRAINER = "lissom", "Hugging Face Trainer"

_EXAMPLES, _EPOCHS = 1600, 2

NOTES = (
    "lissom's time includes caching the teacher's logits and scoring dev after every epoch; on the processor",
    "dev_accuracy_difference_points: lissom minus Trainer, in the better precision",
)


def main() -> None:
    """Train with both, in turn, and compare."""
    arguments = parser(__doc__).parse_args()
    if importlib.util.find_spec("accelerate") is None:
        sys.exit("the Trainer needs the package accelerate: pip install accelerate")
    folder, examples = folder_of(arguments), 64 if arguments.rehearse else _EXAMPLES
    teacher = teacher_of("sst2", arguments.seed, rehearse=arguments.rehearse)
    native = autocast_type("auto") is not None
    precisions: list[Literal["float32", "bfloat16"]] = ["float32", "bfloat16"] if native else ["float32"]
    loops = ((LISSOM, _train_lissom), (TRAINER, _train_trainer))
    for precision, (name, train) in product(precisions, loops):
        with tempfile.TemporaryDirectory() as scratch:
            student, model, data, dev = _start(teacher, examples, Path(scratch))
            params = RecoveryParams(
                epochs=_EPOCHS, learning_rate=2e-4, precision=precision, seed=arguments.seed, keep="last"
            )
            started = time.perf_counter()
            train(student, model, data, dev, params)
            seconds = time.perf_counter() - started
            figures = {
                "examples_per_second": examples * _EPOCHS / seconds,
                "dev_accuracy_percent": _score(student, dev) * 100,
            }
        key = {"loop": name, "precision": precision}
        record(BENCHMARK, key, arguments.seed, figures, data=teacher.data, folder=folder)


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the ratio in bfloat16 if the machine multiplies it natively, else in float32."""

    def take(figure: str, loop: str) -> PerSeed:
        native = rows.take(figure, loop=loop, precision="bfloat16")
        return native if native.values else rows.take(figure, loop=loop, precision="float32")

    def compare(function: Any, figure: str) -> PerSeed:
        return paired(function, take(figure, LISSOM), take(figure, TRAINER))

    return {
        "throughput_vs_hf_trainer": claim(compare(truediv, "examples_per_second"), "x", ">= 1.5"),
        "dev_accuracy_difference_points": claim(compare(sub, "dev_accuracy_percent"), "points", None),
    }


def _start(trained: Trained, examples: int, scratch: Path) -> tuple[CompressedModel, CompressedModel, Encoded, Encoded]:
    """Return student, teacher, train and dev."""
    student, teacher = load(trained.folder / "model"), load(trained.folder / "model")
    student.edit(block_student(6, (0, 2, 5)))
    task, tables = teacher.manifest.task, trained.tables()
    data, dev = (task.encode([tables[split]], teacher.tokenizer, scratch / split) for split in ("train", "dev"))
    data = Encoded(data.tokens, data.types, data.offsets[: examples + 1], data.targets[:examples])
    return student, teacher, data, dev


def _train_lissom(
    student: CompressedModel, teacher: CompressedModel, data: Encoded, dev: Encoded, params: RecoveryParams
) -> None:
    logits = cache_logits(teacher.network, data, teacher.pad_id, autocast_type(params.precision), teacher.manifest.task)
    task = student.manifest.task
    objective = against_teacher(CachedLogits(logits), params.loss, task)
    scorer = Scorer(task.metric, lambda: _score(student, dev))
    fit(student.network, data, student.pad_id, objective, params, score=scorer)


def _score(model: CompressedModel, dev: Encoded) -> float:
    return score(model.network, dev, model.pad_id, model.manifest.task)


def _train_trainer(
    student: CompressedModel, teacher: CompressedModel, data: Encoded, dev: Encoded, params: RecoveryParams
) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import Trainer, TrainingArguments

    loss = against_teacher(LiveTeacher(teacher.network), params.loss, teacher.manifest.task)
    student.network.get_submodule("bert.embeddings.word_embeddings").requires_grad_(False)

    class Distiller(Trainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            return loss(model, inputs["batch"])

    def collate_rows(rows: list[int]) -> dict[str, Batch]:
        return {"batch": collate(data, np.asarray(rows), student.pad_id)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=params.batch_size, num_train_epochs=params.epochs, learning_rate=params.learning_rate,
            warmup_steps=params.warmup, weight_decay=params.weight_decay, max_grad_norm=params.max_grad_norm, seed=params.seed,
            bf16=params.precision == "bfloat16", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True,
            remove_unused_columns=False, report_to="none", dataloader_pin_memory=False,
        )  # fmt: skip
        Distiller(student.network, arguments, train_dataset=list(range(len(data))), data_collator=collate_rows).train()


BENCHMARK = Benchmark(
    "training", ("loop", "precision"), claims, NOTES, settings=lambda _: {"teacher": params_of("sst2")}
)

if __name__ == "__main__":
    torch.manual_seed(0)
    main()
