"""Make a student of the teacher."""

from components.recovery import passed_on, recovered
from components.stage import Outcome, Stage, run_stage
from lissom.distill.config import LogitsDistillation, NoDistillation
from lissom.models.families import blocks_of
from lissom.models.students import block_student


def work(stage: Stage) -> Outcome:
    """Cut the student out of the teacher and train it on the teacher's logits."""
    model = stage.load("model")
    match stage.params.distill:
        case NoDistillation():
            return passed_on(model)
        case LogitsDistillation() as params:
            model.edit(block_student(len(blocks_of(model.network)), params.blocks))
            data = stage.encode(model, "train", "transfer")
            return recovered(stage, model, data, params.method, params.training)


if __name__ == "__main__":
    run_stage("distill", work, inputs=("data", "model", "logits"), outputs=("model",))
