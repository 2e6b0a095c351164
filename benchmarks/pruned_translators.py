"""Heads of a translator on Multi30k, pruned by kind of attention and by gates: rows of `benchmarks.pruning`."""

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.translating import TRAINING, fresh, lesson_of, quality, teacher_of
from lissom.data.batches import sorted_batches
from lissom.models.compressed import CompressedModel
from lissom.models.edits import KeepHeads
from lissom.models.sites import attention_sites, head_size, sites_of_kind
from lissom.prune.config import GatesPruning
from lissom.prune.first_order import select
from lissom.prune.importance import head_importance
from lissom.prune.plan import plan
from lissom.training.compress import compress
from lissom.training.config import RecoveryParams, TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.losses import against_targets
from lissom.training.teacher import CachedLogits, cache_logits

MULTI30K, WHOLE = "multi30k", "the whole translator"
KINDS = {"heads of the encoder": "encoder", "heads of the decoder": "decoder", "heads of cross-attention": "cross"}
PENALTIES = (1.0, 3.0, 10.0)
GATED, SCRATCH = "gates on heads, penalty {:g}", "from scratch, the heads of penalty {:g}"
TRANSLATORS = (WHOLE, *KINDS, *(form.format(penalty) for penalty in PENALTIES for form in (GATED, SCRATCH)))

_GATED_EPOCHS, _CALIBRATION, _BATCH = 5, 512, 32
_LEFT = (0.75, 0.5, 0.25)
_GATES: dict[str, Any] = {"method": "gates", "units": ["heads"], "keep": None, "cooldown": 0.4}
_LOSS = {"temperature": 1.0, "alpha": 0.0}  # references alone, as the training from scratch has them


def settings(method: str) -> Any:
    """Return what a row depends on besides code and teacher."""
    return {"method": method, "gates": _GATES, "epochs": _GATED_EPOCHS, "training": TRAINING}


def translators(methods: tuple[str, ...], seed: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield method and figures of the rows that are named; gates and the training from scratch come in pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        lesson = lesson_of(Path(scratch), rehearse=rehearse)
        teacher = partial(teacher_of, lesson, seed, rehearse=rehearse)
        if WHOLE in methods:
            yield WHOLE, {**quality(teacher(), lesson), **_heads(teacher())}
        for name, kind in KINDS.items():
            if name in methods:
                yield name, _by_importance(teacher(), kind, lesson, rehearse=rehearse)
        for penalty in PENALTIES:
            pair = (GATED.format(penalty), SCRATCH.format(penalty))
            if set(pair) & set(methods):
                models = _pair(teacher(), lesson, penalty, seed, rehearse=rehearse)
                for name, model in zip(pair, models, strict=True):
                    yield name, {**quality(model, lesson), **_heads(model)}


def _by_importance(model: CompressedModel, kind: str, lesson: Lesson, *, rehearse: bool) -> dict[str, Any]:
    """Return BLEU while the least important heads of one kind of attention go, without a training."""
    network, data = model.network.eval(), lesson.texts(model)
    batches = sorted_batches(data, _BATCH, model.pad_id, data.labelled(16 if rehearse else _CALIBRATION))
    scores, chosen = head_importance(network, batches, model.manifest.task.loss), sites_of_kind(network, kind)
    figures = {}
    for share in _LEFT:
        kept = [tuple(range(len(score))) for score in scores]
        for site, heads in zip(chosen, select([scores[site] for site in chosen], share, 1, uniform=False), strict=True):
            kept[site] = heads
        pruned = copy.deepcopy(model)
        pruned.edit([KeepHeads(kept=tuple(kept))])
        figures[f"bleu_{share * 100:.0f}_left"] = quality(pruned, lesson)["bleu"]
    return figures


def _pair(
    teacher: CompressedModel, lesson: Lesson, penalty: float, seed: int, *, rehearse: bool
) -> tuple[CompressedModel, CompressedModel]:
    """Return the teacher trained with gates on its heads, and a translator of the same shape from scratch.

    The second is trained for as many updates as the teacher and the gates together.
    """
    epochs = (1, 2) if rehearse else (_GATED_EPOCHS, TRAINING["epochs"] + _GATED_EPOCHS)
    training = RecoveryParams.model_validate(
        {**TRAINING, "learning_rate": 3e-4, "keep": "last", "seed": seed, "epochs": epochs[0], "loss": _LOSS}
    )
    task, pruned = teacher.manifest.task, copy.deepcopy(teacher)
    logits = cache_logits(teacher.network, lesson.texts(teacher), teacher.pad_id, None, task)
    params = GatesPruning.model_validate({**_GATES, "penalty": penalty, "training": training.model_dump()})
    compress(pruned, plan(pruned, lesson, params), lesson, CachedLogits(logits), params.training)
    scratch = fresh(lesson, seed + 1000)
    scratch.edit(pruned.manifest.edits)
    whole = TrainingParams(**{**TRAINING, "seed": seed, "epochs": epochs[1]})
    lesson.train(
        "scratch", scratch.network, lesson.encode(scratch, "train"), scratch.pad_id, against_targets(task), whole,
        identity="", score=lesson.scorer(scratch, whole),
    )  # fmt: skip
    return pruned, scratch


def _heads(model: CompressedModel) -> dict[str, int]:
    """Return the numbers of heads by kind of attention."""
    network, width = model.network, head_size(model.network)
    sites = attention_sites(network)
    return {
        f"heads_{kind}": sum(
            network.get_submodule(sites[number].key).out_features // width for number in sites_of_kind(network, kind)
        )
        for kind in KINDS.values()
    }
