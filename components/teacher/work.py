"""The work of the stage: train on the labels, then ask the teacher about train and transfer texts."""

import time

import torch

from components.stage import Outcome, Stage
from lissom.console import ProgressBar
from lissom.data.prepare import load_card
from lissom.distill.teacher import cache_logits, save_logits
from lissom.models.base import load_base
from lissom.models.manifest import Task
from lissom.tracking.runs import RunMetrics
from lissom.training.loop import autocast_type, fit
from lissom.training.losses import task_loss
from lissom.training.predicting import score


def fine_tune(stage: Stage) -> Outcome:
    """Train on the labels, then ask the teacher about train and transfer texts."""
    params, card = stage.params.teacher, load_card(stage.inputs["data"])
    length = stage.params.base.max_length
    task = Task(name=card.name, labels=card.labels, scale=card.scale, pair=card.pair, max_length=length)
    model = load_base(stage.params.base, task, params.seed)
    train, dev = stage.encode(model, "train"), stage.encode(model, "dev")
    precision = autocast_type(params.precision)
    fitted = fit(
        model.network, train, model.pad_id, task_loss, params,
        score=lambda: score(model.network, dev, model.pad_id, precision),
        hooks=[RunMetrics(stage.run), ProgressBar("teacher")], checkpoints=stage.checkpoints(), identity="task_loss",
        world=stage.world,
    )  # fmt: skip
    started = time.monotonic()
    everything = stage.encode(model, "train", "transfer")
    save_logits(cache_logits(model.network, everything, model.pad_id, precision), stage.outputs["logits"])
    logits_seconds = time.monotonic() - started
    metrics = {
        "dev_score": fitted.best_score,
        "steps": fitted.steps,
        "examples_per_second": fitted.examples_per_second,
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "cached_logits": len(everything),
        "logits_seconds": logits_seconds,
    }
    return Outcome(metrics=metrics, history=fitted.records, model=model, method="fine_tune")
