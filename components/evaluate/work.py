"""The work of the stage."""

from components.stage import Outcome, Stage
from lissom.artifacts import TEACHER
from lissom.data.prepare import load_table
from lissom.evaluate.exits import sweep_speeds
from lissom.evaluate.floor import measure_floors
from lissom.evaluate.plain_int8 import evaluate_plain_int8
from lissom.evaluate.variant import Subject, evaluate_variant
from lissom.export.exported import open_exported
from lissom.models.exits import has_early_exits


def evaluate(stage: Stage) -> Outcome:
    """Measure quality, size, memory and speed; for the teacher also its baselines."""
    subject, teacher = _subject(stage, "model", "export"), _subject(stage, "teacher", "teacher_export")
    params, model = stage.params.evaluate, subject.model
    exits = None
    if has_early_exits(model.network):
        exits = sweep_speeds(model, stage.inputs["export"], subject.test, params)
    evaluation = evaluate_variant(stage.variant, subject, teacher, params, exits)
    if stage.variant == TEACHER:
        tables = {split: load_table(stage.inputs["data"], split) for split in ("train", "dev", "test")}
        floors, absent = measure_floors(tables, teacher.model, params, stage.scratch)
        evaluation = evaluation.model_copy(
            update={
                "floors": floors,
                "absent_floors": absent,
                "plain_int8": evaluate_plain_int8(teacher, params, stage.scratch),
            }
        )
    return Outcome(metrics=evaluation.model_dump(mode="json"))


def _subject(stage: Stage, model: str, export: str) -> Subject:
    subject_model = stage.load(model)
    return Subject(subject_model, open_exported(stage.inputs[export]), stage.encode(subject_model, "test"))
