"""Train with fake quantisation, so that the exported integers lose nothing."""

from components.recovery import passed_on, recovered
from components.stage import Outcome, Stage
from lissom.data.batches import sorted_batches
from lissom.quantize.config import Int8Training, NoQuantization
from lissom.quantize.int8 import RangeSchedule, calibrate, real_tokens_only
from lissom.quantize.plan import plan

_BATCH_SIZE = 32


def quantize(stage: Stage) -> Outcome:
    """Insert the quantisers, set their ranges, train against the teacher."""
    model = stage.load("model")
    match stage.params.quantize:
        case NoQuantization():
            return passed_on(model)
        case Int8Training() as params:
            model.edit(plan(params))
            data = stage.encode(model, "train", "transfer")
            members = data.labelled(params.calibration_examples)
            calibrate(model.network, sorted_batches(data, _BATCH_SIZE, model.pad_id, members))
            with real_tokens_only(model.network):
                hooks = [RangeSchedule(params.observe)]
                return recovered(stage, model, data, params.method, params.training, hooks)
