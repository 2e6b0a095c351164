"""The work of the stage: fine-tune the teacher, then cache its logits of train and transfer texts."""

import time

from lissom.components.stage import Outcome, Stage
from lissom.console import note
from lissom.data.prepare import load_card
from lissom.models.base import load_base
from lissom.tasks.kinds import task_of
from lissom.training.loop import autocast_type, precision_name
from lissom.training.losses import against_targets
from lissom.training.teacher import cache_logits, save_logits


def fine_tune(stage: Stage) -> Outcome:
    """Fine-tune on the labels, then cache the logits of train and transfer texts."""
    params, lesson = stage.params.teacher, stage.lesson()
    task = task_of(load_card(stage.inputs["data"]), stage.params.base.max_length)
    model = load_base(stage.params.base, task, params.seed, note)
    result = lesson.train(
        "training", model.network, lesson.encode(model, "train"), model.pad_id, against_targets(task), params,
        identity="fine_tune", score=lesson.scorer(model, params),
    )  # fmt: skip
    start = time.monotonic()
    data = lesson.texts(model)
    logits = cache_logits(model.network, data, model.pad_id, autocast_type(params.precision), task)
    save_logits(logits, stage.outputs["logits"])
    metrics = {
        "dev_score": result.best_score,
        "steps": result.steps,
        "examples_per_second": result.examples_per_second,
        "precision": precision_name(params),
        "cached_logits": len(data),
        "logits_seconds": time.monotonic() - start,
    }
    return Outcome(metrics=metrics, history=result.records, model=model, method="fine_tune")
