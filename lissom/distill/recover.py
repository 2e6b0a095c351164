"""Training a model against its teacher's logits: what distillation and every repair after surgery have in common."""

from collections.abc import Sequence

from lissom.data.encoding import Encoded
from lissom.distill.logits import against_teacher
from lissom.distill.teacher import Teacher
from lissom.models.compressed import CompressedModel
from lissom.parallel.world import World
from lissom.training.checkpoint import Checkpoints
from lissom.training.config import RecoveryParams
from lissom.training.hooks import Hook
from lissom.training.loop import Fitted, autocast_type, fit
from lissom.training.predicting import score


def recover(
    model: CompressedModel,
    data: Encoded,
    dev: Encoded,
    teacher: Teacher,
    params: RecoveryParams,
    *,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    world: World | None = None,
) -> Fitted:
    """Train `model` in place on the distillation loss, scored by dev score.

    Args:
        model: the student, its edits made.
        data: train and transfer examples, numbered as `teacher` knows them.
        dev: dev examples.
        teacher: cached or live logits.
        params: the training and its loss.
        hooks: called around steps.
        checkpoints: where to checkpoint to and resume from.
        world: the processes that share the training; None for this one alone.
    """
    precision = autocast_type(params.precision)
    return fit(
        model.network,
        data,
        model.pad_id,
        against_teacher(teacher, params.loss),
        params,
        score=lambda: score(model.network, dev, model.pad_id, precision),
        hooks=hooks,
        checkpoints=checkpoints,
        identity="against_teacher",
        world=world,
    )
