"""What distill, prune, factorize and quantize share: after their edits, train against the teacher's cached logits."""

from collections.abc import Sequence

from components.stage import Outcome, Stage
from lissom.console import ProgressBar
from lissom.data.encoding import Encoded
from lissom.distill.recover import recover
from lissom.distill.teacher import load_logits
from lissom.models.compressed import CompressedModel
from lissom.tracking.runs import RunMetrics
from lissom.training.config import RecoveryParams
from lissom.training.hooks import Hook
from lissom.training.loop import autocast_type
from lissom.training.predicting import score


def recovered(
    stage: Stage,
    model: CompressedModel,
    data: Encoded,
    method: str,
    training: RecoveryParams,
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Train the edited model and say how far it fell and how far it came back."""
    dev = stage.encode(model, "dev")
    before = score(model.network, dev, model.pad_id, autocast_type(training.precision))
    fitted = recover(
        model, data, dev, load_logits(stage.inputs["logits"], len(data)), training,
        hooks=[*hooks, RunMetrics(stage.run), ProgressBar(stage.name)], checkpoints=stage.checkpoints(),
        world=stage.world,
    )  # fmt: skip
    metrics = {
        "method": method,
        "dev_score_before_training": before,
        "dev_score": fitted.best_score,
        "steps": fitted.steps,
        "examples_per_second": fitted.examples_per_second,
        "precision": str(autocast_type(training.precision) or "float32").removeprefix("torch."),
    }
    return Outcome(metrics=metrics, history=fitted.records, model=model, method=method)


def passed_on(model: CompressedModel) -> Outcome:
    """Leave the model as it is: `method: none`."""
    return Outcome(metrics={"method": "none"}, model=model, method="none")
