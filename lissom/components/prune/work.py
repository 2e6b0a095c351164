"""The work of the stage."""

from lissom.components.compressing import apply_methods
from lissom.components.stage import Outcome, Stage
from lissom.prune.plan import plan


def prune(stage: Stage) -> Outcome:
    """Remove structures, then train the model against the teacher."""
    return apply_methods(stage, stage.params.prune, plan)
