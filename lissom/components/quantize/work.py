"""The work of the stage."""

from dataclasses import replace

from lissom.components.compressing import apply_methods
from lissom.components.stage import Outcome, Stage
from lissom.evaluate.relative_latency import relative_latency, table_path
from lissom.quantize.plan import plan


def quantize(stage: Stage) -> Outcome:
    """Insert quantisers, set their ranges, train against the teacher."""
    lesson = replace(stage.lesson(), latency=relative_latency(stage.scratch, table_path()))
    return apply_methods(stage, stage.params.quantize, plan, lesson)
