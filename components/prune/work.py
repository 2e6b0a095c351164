"""The work of the stage."""

from components.compressing import apply_methods
from components.stage import Outcome, Stage
from lissom.prune.plan import plan


def prune(stage: Stage) -> Outcome:
    """Remove structures, then let the model recover."""
    return apply_methods(stage, stage.params.prune, plan)
