"""Fine-tune the base model on the task and compute its logits once for every training example."""

from components.stage import Outcome, Stage, run_stage


def work(stage: Stage) -> Outcome:
    """Do the work; what it needs is loaded here, so that params are checked and processes started without torch."""
    from components.teacher.work import fine_tune

    return fine_tune(stage)


if __name__ == "__main__":
    run_stage("teacher", work, inputs=("data",), outputs=("model", "logits"), trains=True)
