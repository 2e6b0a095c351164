"""The work of the stage."""

from lissom.artifacts import CHANGES, SPLITS, TEACHER
from lissom.components.specs import METRICS_FOLDER
from lissom.components.stage import Outcome, Stage
from lissom.data.prepare import load_table
from lissom.evaluate.exits import sweep_speeds
from lissom.evaluate.figures import PlainInt8
from lissom.evaluate.floor import measure_floors
from lissom.evaluate.paired import changed_answers, write_changes
from lissom.evaluate.variant import Reference, Subject, evaluate_variant
from lissom.export.baselines import open_baselines
from lissom.export.exported import model_bytes, open_exported, split_answers
from lissom.models.base import load_base
from lissom.models.compressed import CompressedModel
from lissom.models.exits import has_early_exits


def evaluate(stage: Stage) -> Outcome:
    """Measure quality, size, memory and speed; for the teacher also its baselines.

    Writes the examples whose answers differ from the teacher's as CSV.
    """
    subject, teacher = _subject(stage, "model", "export"), _subject(stage, "teacher", "teacher_export")
    reference = Reference(teacher, open_baselines(stage.inputs["teacher_export"]))
    params, model = stage.params.evaluate, subject.model
    exits = None
    if has_early_exits(model.network):
        exits = sweep_speeds(model, stage.inputs["export"], subject.test, params)
    evaluation, answers, teacher_answers = evaluate_variant(stage.variant, subject, reference, params, exits)
    task, tables = model.manifest.task, {split: load_table(stage.inputs["data"], split) for split in SPLITS}
    if stage.variant == TEACHER:
        targets, bins = subject.test.judged.targets, params.calibration_bins
        qualities = {
            name: task.quality(split_answers(exported, subject.test, task), answers, targets, bins)
            for name, exported in reference.int8.items()
        }
        base = stage.params.base

        def of_base() -> CompressedModel:
            return teacher.model if base.is_new else load_base(base, task, seed=0)

        floors, absent = measure_floors(tables, task, of_base, params, stage.scratch)
        baselines = {
            "floors": floors,
            "absent_floors": absent,
            "plain_int8": tuple(
                PlainInt8(name=name, quality=qualities[name], megabytes=model_bytes(exported.files) / 1e6)
                for name, exported in reference.int8.items()
            ),
        }
        evaluation = evaluation.model_copy(update=baselines)
    else:
        rows = changed_answers(task, answers, teacher_answers, subject.test.judged, tables["test"])
        write_changes(stage.outputs[METRICS_FOLDER] / CHANGES, rows, pair=task.pair)
    return Outcome(metrics=evaluation.model_dump(mode="json"))


def _subject(stage: Stage, model: str, export: str) -> Subject:
    subject_model = stage.load(model)
    return Subject(subject_model, open_exported(stage.inputs[export]), stage.encode(subject_model, "test"))
