"""Remove the structures that the loss feels least, then let the model recover."""

from components.recovery import passed_on, recovered
from components.stage import Outcome, Stage, run_stage
from lissom.prune.config import NoPruning
from lissom.prune.plan import plan


def work(stage: Stage) -> Outcome:
    """Plan on training examples, cut, train against the teacher."""
    model, params = stage.load("model"), stage.params.prune
    if isinstance(params, NoPruning):
        return passed_on(model)
    data = stage.encode(model, "train", "transfer")
    model.edit(plan(model.network, data, model.pad_id, params))
    return recovered(stage, model, data, params.method, params.training)


if __name__ == "__main__":
    run_stage("prune", work, inputs=("data", "model", "logits"), outputs=("model",), trains=True)
