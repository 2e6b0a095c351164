"""The work of the stage."""

from lissom.components.compressing import apply_methods
from lissom.components.stage import Outcome, Stage
from lissom.factorize.plan import plan


def factorize(stage: Stage) -> Outcome:
    """Factorise matrices, then train the model against the teacher."""
    return apply_methods(stage, stage.params.factorize, plan, stage.lesson())
