"""The work of the stage."""

from components.compressing import carry_out
from components.stage import Outcome, Stage
from lissom.factorize.plan import plan


def factorize(stage: Stage) -> Outcome:
    """Replace matrices by smaller ones, then let the model recover."""
    return carry_out(stage, stage.params.factorize, plan)
