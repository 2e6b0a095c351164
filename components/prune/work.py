"""Remove the structures that the loss feels least, then let the model recover."""

from components.recovery import passed_on, recovered
from components.stage import Outcome, Stage
from lissom.prune.config import NoPruning
from lissom.prune.plan import plan


def prune(stage: Stage) -> Outcome:
    """Plan on training examples, cut, train against the teacher."""
    model, params = stage.load("model"), stage.params.prune
    if isinstance(params, NoPruning):
        return passed_on(model)
    data = stage.encode(model, "train", "transfer")
    model.edit(plan(model.network, data, model.pad_id, params))
    return recovered(stage, model, data, params.method, params.training)
