"""The work of the stage: make the teacher, then cache its logits of train and transfer texts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lissom.attention.config import Pattern
from lissom.components.stage import Outcome, Stage
from lissom.console import note
from lissom.data.prepare import load_card, load_table
from lissom.errors import InputError
from lissom.export.cached_attention import check_cached_patterns
from lissom.models.base import load_base
from lissom.models.capabilities import check_family
from lissom.models.compressed import CompressedModel
from lissom.models.edits import UseAttention
from lissom.models.families import family_of
from lissom.models.patterned import has_patterns
from lissom.models.sites import attention_sites, head_size, sites_of_kind
from lissom.params import Params
from lissom.tasks.chat import check_conversations
from lissom.tasks.kinds import AnyTask, task_of
from lissom.tasks.language_modeling import LanguageModeling
from lissom.training.lesson import Lesson
from lissom.training.loop import autocast_type, precision_name
from lissom.training.losses import against_targets
from lissom.training.teacher import cache_logits, save_logits

_WITH_EXITS = ("fastbert", "deep_to_shallow")
"""Methods of distillation whose students have an exit after every block."""
_OF_SCORES = ("tinybert", "mobilebert")
"""Methods of distillation that compare the scores of attention."""
_KERNEL_WIDTH = 8
"""onnxruntime's GroupQueryAttention takes heads whose width is a multiple of this."""
_OF_ANOTHER_FAMILY = ("distilbert", "tinybert", "mobilebert", "lstm", "static")
"""Methods of distillation whose students may be of another family than the teacher."""


def make_teacher(stage: Stage) -> Outcome:
    """Fine-tune on the labels, or take the base model as it is; then cache the logits of train and transfer texts."""
    params, lesson = stage.params.teacher, stage.lesson()
    task, is_trained = task_of(load_card(stage.inputs["data"]), stage.params.base.max_length), params.method == "none"
    model = load_base(
        stage.params.base, task, params.seed, note, needs_head=is_trained, texts=lambda: _texts(lesson, task)
    )  # fmt: skip
    check_later_stages(stage.params, model)
    if isinstance(model.manifest.task, LanguageModeling):
        tables = {**lesson.tables, "test": load_table(stage.inputs["data"], "test")}
        check_conversations(tables, model.manifest.task.chat_template, model.manifest.task.chat_tokens)
    precision = autocast_type(params.precision)
    metrics: dict[str, Any] = {}
    history: list[dict[str, float]] = []
    if is_trained:
        metrics["dev_score"] = lesson.scorer(model, params)()
    else:
        result = lesson.train(
            "training", model.network, lesson.encode(model, "train"), model.pad_id, against_targets(task), params,
            identity="fine_tune", score=lesson.scorer(model, params),
        )  # fmt: skip
        metrics |= {
            "dev_score": result.best_score,
            "still_improved": _still_improved(result.records, task),
            "steps": result.steps,
            "examples_per_second": result.examples_per_second,
        }
        history = result.records
    start = time.monotonic()
    data = lesson.texts(model)
    logits = cache_logits(model.network, data, model.pad_id, precision, task, params.cached_tokens)
    save_logits(logits, stage.outputs["logits"])
    metrics |= {
        "precision": precision_name(params),
        "cached_logits": len(data),
        "logits_seconds": time.monotonic() - start,
        **task.cache_metrics(logits),
    }
    return Outcome(metrics=metrics, history=history, model=model, method=params.method)


def _still_improved(records: Sequence[Mapping[str, float]], task: AnyTask) -> bool:
    """Return whether the dev score after the last epoch is better than all before."""
    scores = [record["dev_score"] for record in records if "dev_score" in record]
    return len(scores) > 1 and all(task.metric.improves(scores[-1], score) for score in scores[:-1])


def check_later_stages(params: Params, model: CompressedModel) -> None:
    """Raise `InputError`, before hours of training, if the model's family cannot have what a later stage does to it."""
    _check_distillation(params, model)
    if params.distill.method not in _OF_ANOTHER_FAMILY:
        _check_compression(params, model)
    if "gguf" in params.export.formats:
        from lissom.gguf.checks import check_system  # needs packages that only this format needs
        from lissom.gguf.file import described

        described(model)
        if isinstance(model.manifest.task, LanguageModeling):
            check_system(model.manifest.task, params.export.gguf.system)
        if _attention_of_student(params):
            raise InputError(
                "distill.attention: a GGUF file cannot express patterns of attention; leave it out, or set "
                "export.formats to [onnx]"
            )


def _attention_of_student(params: Params) -> tuple[Pattern, ...]:
    """Return the patterns that the student gets besides those of the teacher."""
    return params.distill.attention if params.distill.method == "logits" else ()


def _check_distillation(params: Params, model: CompressedModel) -> None:
    family, method = model.network.config.model_type, params.distill.method
    if method in _WITH_EXITS:
        check_family(family, "exits", f"distill.method: {method}")
    if method in _OF_SCORES:
        check_family(family, "scores", f"distill.method: {method}")
        if has_patterns(model.network):
            raise InputError(
                f"distill.method: {method} compares the scores of all pairs of tokens, and the teacher's attention, by "
                "base.attention, has some; take method: logits, or leave base.attention out"
            )
    patterns = _attention_of_student(params)
    if params.distill.method == "logits" and patterns:
        check_family(family, "attention", "distill.attention")
        heads = model.network.get_submodule(attention_sites(model.network)[0].query).out_features
        UseAttention(patterns=patterns).check(len(params.distill.blocks), heads // head_size(model.network))
    if model.manifest.task.continues_texts:
        check_cached_patterns([*params.base.attention, *patterns])
        if width := head_size(model.network) % _KERNEL_WIDTH:
            raise InputError(
                f"base.model {params.base.model}: its heads are {head_size(model.network)} wide, {width} more than a "
                f"multiple of {_KERNEL_WIDTH}, which onnxruntime's kernel for language models needs; take another "
                "width or number of heads"
            )


def _check_compression(params: Params, model: CompressedModel) -> None:
    family = model.network.config.model_type
    for pruning in params.prune:
        if pruning.method == "first_order" and pruning.heads < 1:
            check_family(family, "heads", "prune.heads below 1")
            if pruning.head_criterion == "confidence" and not family_of(model.network).has_encoder_and_decoder:
                check_family(family, "scores", "prune.head_criterion: confidence")
                if has_patterns(model.network) or _attention_of_student(params):
                    raise InputError(
                        "prune.head_criterion: confidence needs the scores of all pairs of tokens, and the model's "
                        "attention, by base.attention or distill.attention, has some; take gradient"
                    )
        if pruning.method == "gates" and pruning.layer_distillation:
            check_family(family, "hidden", "prune.layer_distillation")
        if pruning.method == "gates" and "heads" in pruning.units:
            check_family(family, "heads", "prune.units with heads")
        if pruning.method in ("first_order", "gates"):
            sites_of_kind(model.network, pruning.attention)
    for factors in params.factorize:
        if factors.method == "word_table" and factors.min_count is not None:
            check_family(family, "vocabulary", "factorize.min_count")
        thinner = factors.method == "word_table" and not factors.vocabulary is factors.rank is None
        if thinner or getattr(factors, "table", None) is not None:
            check_family(family, "word_table", f"factorize.method: {factors.method}, which changes the word table")


def _texts(lesson: Lesson, task: AnyTask) -> Iterator[str]:
    """Yield the training texts, and where answers are texts those too."""
    train = lesson.tables["train"]
    yield from (text for pair in train.texts() for text in pair if text is not None)
    if task.writes_texts:
        yield from (label for label in train.labels() if label is not None)
