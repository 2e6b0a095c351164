"""The work of the stage."""

from components.compressing import apply_methods
from components.stage import Outcome, Stage
from lissom.factorize.plan import plan


def factorize(stage: Stage) -> Outcome:
    """Factorise matrices, then train the model against the teacher."""
    return apply_methods(stage, stage.params.factorize, plan)
