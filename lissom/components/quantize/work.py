"""The work of the stage."""

from lissom.components.compressing import apply_methods
from lissom.components.stage import Outcome, Stage
from lissom.quantize.plan import plan


def quantize(stage: Stage) -> Outcome:
    """Insert quantisers, set their ranges, train against the teacher."""
    return apply_methods(stage, stage.params.quantize, plan, stage.lesson())
