"""Throughput of lissom's loop against a plain Hugging Face Trainer: same student, data, loss, batch size and precision.

    python -m benchmarks.training

The Trainer asks the teacher in every step, as its examples do; lissom's time includes computing the teacher's logits
once. Both train from the same weights, in turn, and are scored on the same dev set. Needs `benchmarks.headline sst2`
to have made the teacher, and the package accelerate for the Trainer.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.results import claim, write_result
from benchmarks.workspace import ROOT
from lissom.artifacts import MANIFEST
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.data.prepare import load_table
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load
from lissom.models.students import block_student
from lissom.training.config import RecoveryParams
from lissom.training.loop import autocast_type, fit
from lissom.training.losses import against_teacher
from lissom.training.predicting import Scorer, score
from lissom.training.teacher import CachedLogits, LiveTeacher, cache_logits

_EXAMPLES, _EPOCHS, _REPEATS = 1600, 2, 2
_WORK = ROOT / "benchmarks" / "work" / "sst2" / "artifacts"


def main() -> None:
    """Train with both, in turn, and compare."""
    if not (_WORK / "teacher" / MANIFEST).is_file():
        sys.exit("there is no teacher yet: run `python -m benchmarks.headline sst2` first")
    native = autocast_type("auto") is not None
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        precisions: list[Literal["float32", "bfloat16"]] = ["float32", "bfloat16"] if native else ["float32"]
        for precision in precisions:
            for repeat in range(_REPEATS):
                for name, train in (("lissom", _train_lissom), ("Hugging Face Trainer", _train_trainer)):
                    student, teacher, data, dev = _start(Path(scratch))
                    params = RecoveryParams(
                        epochs=_EPOCHS, learning_rate=2e-4, precision=precision, seed=repeat, keep="last"
                    )
                    started = time.perf_counter()
                    train(student, teacher, data, dev, params)
                    seconds = time.perf_counter() - started
                    rows.append({
                        "loop": name, "precision": precision, "seed": repeat,
                        "examples_per_second": _EXAMPLES * _EPOCHS / seconds,
                        "dev_accuracy_percent": _score(student, dev) * 100,
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    ratios = {
        precision: _mean(rows, "lissom", precision) / _mean(rows, "Hugging Face Trainer", precision)
        for precision in {row["precision"] for row in rows}
    }
    best = "bfloat16" if native else "float32"
    gain = _mean(rows, "lissom", best, "dev_accuracy_percent") - _mean(
        rows, "Hugging Face Trainer", best, "dev_accuracy_percent"
    )
    claims = {"throughput_vs_hf_trainer": claim(ratios[best], "x", ">= 1.5")}
    notes = [f"{precision}: {ratio:.2f}x the examples per second" for precision, ratio in sorted(ratios.items())]
    notes.append(
        f"dev accuracy, lissom minus Trainer, in {best}: {gain:+.2f} points; lissom's time includes caching the teacher's logits and scoring dev after every epoch"
    )
    write_result("training", rows, claims, seeds=list(range(_REPEATS)), notes=notes)


def _mean(rows: list[dict[str, Any]], loop: str, precision: str, figure: str = "examples_per_second") -> float:
    return float(np.mean([row[figure] for row in rows if row["loop"] == loop and row["precision"] == precision]))


def _start(scratch: Path) -> tuple[CompressedModel, CompressedModel, Encoded, Encoded]:
    student, teacher = load(_WORK / "teacher"), load(_WORK / "teacher")
    student.edit(block_student(6, (0, 2, 5)))
    task = teacher.manifest.task
    data, dev = (
        task.encode(
            [load_table(_WORK / "prepare", split)], teacher.tokenizer, scratch / f"{split}{time.monotonic_ns()}"
        )
        for split in ("train", "dev")
    )
    data = Encoded(data.tokens, data.types, data.offsets[: _EXAMPLES + 1], data.targets[:_EXAMPLES])
    return student, teacher, data, dev


def _train_lissom(
    student: CompressedModel, teacher: CompressedModel, data: Encoded, dev: Encoded, params: RecoveryParams
) -> None:
    logits = cache_logits(teacher.network, data, teacher.pad_id, autocast_type(params.precision))
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


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
