"""The work of the stage."""

from components.compressing import carry_out
from components.stage import Outcome, Stage
from lissom.quantize.plan import plan


def quantize(stage: Stage) -> Outcome:
    """Insert quantisers, set their ranges, train against the teacher."""
    return carry_out(stage, stage.params.quantize, plan)
