"""The work of the stage."""

from components.compressing import carry_out
from components.stage import Outcome, Stage
from lissom.prune.plan import plan


def prune(stage: Stage) -> Outcome:
    """Remove structures, then let the model recover."""
    return carry_out(stage, stage.params.prune, plan)
