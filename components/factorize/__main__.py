"""Shrink the word table, then let the model recover."""

from components.stage import Outcome, Stage, run_stage


def work(stage: Stage) -> Outcome:
    """Do the work; what it needs is loaded here, so that params are checked and processes started without torch."""
    from components.factorize.work import factorize

    return factorize(stage)


if __name__ == "__main__":
    run_stage("factorize", work, inputs=("data", "model", "logits"), outputs=("model",), trains=True)
