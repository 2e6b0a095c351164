"""The work of the stage."""

from components.compressing import apply_methods
from components.stage import Outcome, Stage
from lissom.quantize.plan import plan


def quantize(stage: Stage) -> Outcome:
    """Insert quantisers, set their ranges, train against the teacher."""
    return apply_methods(stage, stage.params.quantize, plan)
