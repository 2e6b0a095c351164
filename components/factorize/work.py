"""The work of the stage."""

from components.compressing import apply_methods
from components.stage import Outcome, Stage
from lissom.factorize.plan import plan


def factorize(stage: Stage) -> Outcome:
    """Replace matrices by smaller ones, then let the model recover."""
    return apply_methods(stage, stage.params.factorize, plan)
