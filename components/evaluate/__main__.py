"""Measure one variant on its exported file, next to the teacher."""

from typing import Any

from components.stage import Outcome, Stage, run_stage
from lissom.data.encoding import Encoded
from lissom.data.prepare import load_table
from lissom.evaluate.exits import exported_accuracy, sweep_speeds
from lissom.evaluate.figures import ExitSweep
from lissom.evaluate.floor import linear_floor
from lissom.evaluate.plain_int8 import evaluate_plain_int8
from lissom.evaluate.variant import evaluate_variant
from lissom.models.compressed import CompressedModel
from lissom.models.exits import early_exits


def work(stage: Stage) -> Outcome:
    """Measure quality, size, memory and speed; beside the teacher also the two baselines that need no training."""
    model, teacher = stage.load("model"), stage.load("teacher")
    test, teacher_test = stage.encode(model, "test"), stage.encode(teacher, "test")
    params, exported = stage.params.evaluate, stage.inputs["export"]
    exits = _sweep(stage, model, teacher, test) if early_exits(model.network) else None
    evaluation = evaluate_variant(
        stage.option, model, exported, teacher, stage.inputs["teacher_export"], test, teacher_test, params, exits
    )
    metrics: dict[str, Any] = evaluation.model_dump(mode="json")
    if stage.option == "teacher":
        data = stage.inputs["data"]
        train, dev, whole_test = (load_table(data, split) for split in ("train", "dev", "test"))
        floor = linear_floor(train, dev, whole_test, teacher.manifest.task.coding)
        metrics["floor"] = floor.model_dump(mode="json")
        plain = evaluate_plain_int8(teacher, exported, test, params, stage.scratch)
        metrics["plain_int8"] = plain.model_dump(mode="json")
    return Outcome(metrics=metrics)


def _sweep(stage: Stage, model: CompressedModel, teacher: CompressedModel, test: Encoded) -> ExitSweep:
    """Choose the speed on the dev set, by the largest drop that the gates allow."""
    teacher_dev = stage.encode(teacher, "dev")
    accuracy = exported_accuracy(stage.inputs["teacher_export"], teacher_dev, teacher.pad_id)
    return sweep_speeds(
        model, stage.inputs["export"], stage.encode(model, "dev"), test, accuracy,
        stage.params.gates.max_score_drop, stage.params.evaluate,
    )  # fmt: skip


if __name__ == "__main__":
    run_stage("evaluate", work, inputs=("data", "model", "export", "teacher", "teacher_export"), option="variant")
