"""Make a student of the teacher."""

from components.stage import Outcome, Stage, run_stage


def work(stage: Stage) -> Outcome:
    """Do the work; what it needs is loaded here, so that params are checked and processes started without torch."""
    from components.distill.work import make_student

    return make_student(stage)


if __name__ == "__main__":
    run_stage("distill", work, inputs=("data", "model", "logits"), outputs=("model",), trains=True)
