"""Carrying out a recipe: edits, calibration, training against the teacher, final edits; the same for all techniques."""

from dataclasses import dataclass
from typing import Any

from lissom.models.compressed import CompressedModel
from lissom.training.config import RecoveryParams
from lissom.training.lesson import Lesson
from lissom.training.loop import Fitted, precision_name
from lissom.training.losses import against_teacher
from lissom.training.recipe import Recipe
from lissom.training.teacher import Teacher


@dataclass(frozen=True)
class Compressed:
    """What became of a model; the model itself was changed in place."""

    metrics: dict[str, Any]
    fitted: Fitted | None
    """None where there was no training."""


def compress(
    model: CompressedModel,
    recipe: Recipe,
    lesson: Lesson,
    teacher: Teacher,
    training: RecoveryParams | None,
    *,
    phase: str = "training",
    identity: str = "",
) -> Compressed:
    """Carry out a recipe on `model`, in place.

    Args:
        model: the model to compress.
        recipe: what a technique asks for.
        lesson: the texts, train and transfer numbered as `teacher` knows them.
        teacher: cached or live logits.
        training: of the edited model against the teacher; None leaves it as the edits made it.
        phase: names the training among those of the stage.
        identity: what else decides the training, the technique's params say.

    Raises:
        InputError: an edit does not fit the model.
    """
    model.edit(recipe.edits)
    if recipe.calibrate is not None:
        recipe.calibrate(model)
    scorer = lesson.scorer(model, training or RecoveryParams())
    metrics: dict[str, Any] = {"dev_score_before_training": scorer()}
    fitted = None
    if training is not None:
        objective = against_teacher(teacher, training.loss, model.manifest.task).with_penalty(recipe.penalty)
        fitted = lesson.train(
            phase, model.network, lesson.texts(model), model.pad_id, objective, training,
            identity=identity, score=scorer, hooks=recipe.hooks, rates=recipe.rates,
        )  # fmt: skip
        metrics |= {
            "steps": fitted.steps,
            "examples_per_second": fitted.examples_per_second,
            "precision": precision_name(training),
        }
    after = () if recipe.finish is None else tuple(recipe.finish(model))
    if after:
        model.edit(after)
        scorer = lesson.scorer(model, training or RecoveryParams())
    metrics["dev_score"] = scorer() if fitted is None or after else fitted.best_score
    return Compressed({**metrics, **recipe.facts}, fitted)
