"""Train with fake quantisation, so that the exported integers lose nothing."""

from components.stage import Outcome, Stage, run_stage


def work(stage: Stage) -> Outcome:
    """Do the work; what it needs is loaded here, so that params are checked and processes started without torch."""
    from components.quantize.work import quantize

    return quantize(stage)


if __name__ == "__main__":
    run_stage("quantize", work, inputs=("data", "model", "logits"), outputs=("model",), trains=True)
