"""Make a student of the teacher."""

from components.recovery import passed_on
from components.stage import Outcome, Stage
from lissom.console import ProgressBar
from lissom.data.prepare import load_table
from lissom.distill.config import NoDistillation
from lissom.distill.material import Material, precision_name
from lissom.distill.run import distill
from lissom.distill.teacher import load_logits
from lissom.models.base import load_base, load_language_model
from lissom.tracking.runs import RunMetrics


def make_student(stage: Stage) -> Outcome:
    """Make the student and train it as the method says."""
    teacher, params = stage.load("model"), stage.params.distill
    if isinstance(params, NoDistillation):
        return passed_on(teacher)
    task, base = teacher.manifest.task, stage.params.base
    tables = {split: load_table(stage.inputs["data"], split) for split in ("train", "transfer", "dev")}
    material = Material(
        teacher=teacher,
        tables=tables,
        scratch=stage.scratch,
        logits=load_logits(stage.inputs["logits"], len(tables["train"]) + len(tables["transfer"])),
        base=lambda seed: load_base(base, task, seed),
        language_model=lambda: load_language_model(base),
        hooks=lambda phase: [RunMetrics(stage.run, phase.removeprefix("training")), ProgressBar(f"distill, {phase}")],
        checkpoints=stage.checkpoints(),
        world=stage.world,
    )
    student = distill(params, material)
    last = list(student.trainings.values())[-1]
    metrics = {
        "method": params.method,
        "dev_score": material.scorer(student.model, params.training)(),
        "steps": sum(fitted.steps for fitted in student.trainings.values()),
        "examples_per_second": last.examples_per_second,
        "precision": precision_name(params.training),
        **student.metrics,
    }
    return Outcome(metrics=metrics, history=student.history, model=student.model, method=params.method)
