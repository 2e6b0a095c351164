"""The work of the stage."""

from lissom.components.stage import Outcome, Stage
from lissom.distill.config import NoDistillation
from lissom.distill.material import Material
from lissom.distill.run import distill
from lissom.models.base import load_base, load_language_model
from lissom.training.loop import precision_name
from lissom.training.teacher import load_logits


def make_student(stage: Stage) -> Outcome:
    """Build and train the student."""
    teacher, params = stage.load("model"), stage.params.distill
    if isinstance(params, NoDistillation):
        return Outcome(metrics={"method": "none"}, model=teacher, method="none")
    lesson, base, task = stage.lesson(), stage.params.base, teacher.manifest.task
    tables = [lesson.tables[name] for name in ("train", "transfer")]
    material = Material(
        **vars(lesson),
        teacher=teacher,
        logits=load_logits(stage.inputs["logits"], teacher.count_rows(tables)),
        base=lambda seed: load_base(base, task, seed),
        language_model=lambda: load_language_model(base),
    )
    student = distill(params, material)
    last = list(student.trainings.values())[-1]
    metrics = {
        "method": params.method,
        "dev_score": material.scorer(student.model, params.training)(),
        "steps": sum(training.steps for training in student.trainings.values()),
        "examples_per_second": last.examples_per_second,
        "precision": precision_name(params.training),
        **student.metrics,
    }
    return Outcome(metrics=metrics, history=student.history, model=student.model, method=params.method)
