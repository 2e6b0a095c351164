"""What sections of params do to each other: every check raises `ValueError` for sections that do not fit together."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from lissom.artifacts import FINAL, STEPS, TEACHER
from lissom.data.config import TaskKind
from lissom.distill.offline_config import DistilBertDistillation
from lissom.factorize.config import (
    FactorizeMethod,
    KroneckerFactorization,
    LowRankFactorization,
    TensorTrainFactorization,
    WordTableFactorization,
)
from lissom.gguf.config import GgufParams
from lissom.training.config import RecoveryParams, TrainingParams

if TYPE_CHECKING:
    from lissom.params import Params

_OF_TOKENS: Mapping[TaskKind, tuple[str, ...]] = {
    "language_modeling": ("none", "logits", "distilbert"),
    "translation": ("none", "logits", "sequence"),
}
"""Methods of distillation where the outputs are logits of tokens, by task."""
_OF_WHOLE_TEXTS = ("lstm", "static", "fastbert", "deep_to_shallow")
"""Methods whose students, or whose exits, read a text's logits from a vector of the whole text."""
_OF_EMBEDDINGS = ("min_cosine", "pooling")
"""Settings of `export.gguf` that only encoders for embeddings use."""
_OF_WRITING = (
    "proof_tokens", "prompts", "f32_tolerance", "max_kl_divergence", "system", "temperature", "repeat_penalty",
    "context",
)  # fmt: skip
"""Those that only language models use."""
_SPARSE = ("unstructured", "movement", "lottery_ticket")
"""Methods of pruning after which single weights are zero."""


def conflicts(params: "Params") -> list[str]:
    """Return what does not fit together, in words."""
    problems = []
    for check in _CHECKS:
        try:
            check(params)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _variants_are_steps(params: "Params") -> None:
    ordered = tuple(step for step in STEPS if step in params.variants)
    if params.variants != ordered or not {TEACHER, FINAL} <= set(ordered):
        raise ValueError(
            f"variants: {', '.join(params.variants)}: {TEACHER} and {FINAL} must be there, since they are compared, "
            f"each once and in the order {', '.join(STEPS)}"
        )


def _methods_fit_the_task(params: "Params") -> None:
    leaves_early = params.distill.method == "fastbert" or getattr(params.distill, "keep_exits", False)
    if params.data.is_numeric and leaves_early:
        raise ValueError(
            f"distill.method: {params.distill.method} makes exits that are left when the entropy over the labels is "
            f"low, and data.task: {params.data.task} has a number without one; take another method, or "
            "deep_to_shallow with keep_exits: false"
        )
    if params.data.is_per_token and params.distill.method in _OF_WHOLE_TEXTS:
        raise ValueError(
            f"distill.method: {params.distill.method} answers whole texts, and data.task: {params.data.task} asks "
            f"for a label of every word; take another method than {', '.join(_OF_WHOLE_TEXTS)}"
        )


def _methods_fit_predicted_tokens(params: "Params") -> None:
    if not params.data.predicts_tokens:
        if params.distill.method == "sequence":
            raise ValueError(
                f"distill.method: sequence learns texts that the teacher writes, and data.task: {params.data.task} "
                "has none; take another method"
            )
        return
    allowed = _OF_TOKENS[params.data.task]
    if params.distill.method not in allowed:
        raise ValueError(
            f"distill.method: {params.distill.method} is not made for data.task: {params.data.task}; allowed: "
            f"{', '.join(allowed)}"
        )
    if isinstance(params.distill, DistilBertDistillation):
        if params.distill.pretraining is not None:
            raise ValueError(
                "distill.pretraining trains a language model before the task, and data.task: "
                f"{params.data.task} is that already; set it to null"
            )
        if params.distill.signals.source == "cached":
            raise ValueError(
                "distill.signals.source: cached would keep a distribution over all tokens for every token of the "
                "texts; set it to live or auto"
            )
    counts = [getattr(method, "min_count", None) for method in params.factorize]
    if any(count is not None and count > 1 for count in counts):
        raise ValueError(
            "factorize.min_count above 1 divides training texts into other tokens than those that the teacher "
            f"predicts with data.task: {params.data.task}; set it to 1, which removes what no training text has, or "
            "to null"
        )
    warm = [
        f"{place}.loss.temperature"
        for place, training in trainings_with_keys(params)
        if isinstance(training, RecoveryParams) and training.loss.temperature != 1
    ]
    if warm:
        raise ValueError(
            f"{', '.join(warm)}: the teacher's distribution is cached as its most likely tokens and the mass of "
            "the rest, which is exact at temperature 1 only; set each to 1"
        )


def _gguf_holds_the_model(params: "Params") -> None:
    of_gguf = [method for method in params.quantize if method.method == "gguf"]
    if "gguf" not in params.export.formats:
        if of_gguf:
            raise ValueError("quantize.method: gguf trains for GGUF files; set export.formats: [gguf]")
        return
    if params.data.task == "translation":
        raise ValueError(
            "export.formats: gguf is for llama.cpp and Ollama, which run language models and encoders for "
            f"embeddings, and data.task is {params.data.task}; set export.formats: [onnx]"
        )
    writes = params.data.task == "language_modeling"
    unused = _OF_EMBEDDINGS if writes else _OF_WRITING
    defaults = GgufParams()
    named = [name for name in unused if getattr(params.export.gguf, name) != getattr(defaults, name)]
    if named:
        raise ValueError(
            f"export.gguf.{named[0]} is for {'embeddings' if writes else 'models that write'}, and data.task is "
            f"{params.data.task}; leave it out"
        )
    if len(of_gguf) < len(params.quantize):
        other = next(method.method for method in params.quantize if method.method != "gguf")
        raise ValueError(
            f"quantize.method: {other} stores the model in a form that a GGUF file cannot express; set "
            "quantize.method to gguf, or to none: export.gguf.types quantise the weights anyway"
        )
    missing = [method.type for method in of_gguf if method.type not in params.export.gguf.types]
    if missing:
        raise ValueError(
            f"quantize.type: {missing[0]} is not among export.gguf.types ({', '.join(params.export.gguf.types)}); "
            "name it there"
        )


def _stages_fit_the_student(params: "Params") -> None:
    if params.distill.method in ("lstm", "static") and params.prune:
        raise ValueError(
            f"prune.method: {params.prune[0].method} removes heads and neurons of Transformer blocks, and "
            f"distill.method: {params.distill.method} makes a student without blocks; set prune.method: none"
        )
    makes_exits = params.distill.method in ("fastbert", "deep_to_shallow")
    if makes_exits and any(
        method.method == "hidden" or (method.method == "gates" and "channels" in method.units)
        for method in params.prune
    ):
        raise ValueError(
            f"prune.method: hidden, or gates on channels, removes the same channels from every layer, and "
            f"distill.method: {params.distill.method} makes exits that read all of them; take another method of one "
            "of both"
        )
    writes = params.data.task in ("language_modeling", "translation")
    if writes and any(getattr(method, "vocabulary", None) is not None for method in params.factorize):
        raise ValueError(
            f"factorize.vocabulary: a model of data.task: {params.data.task} predicts its own tokens, and so does "
            "its teacher; set it to null"
        )
    trims = any(getattr(method, "min_count", None) is not None for method in params.factorize)
    if params.distill.method == "lstm" and params.distill.tokenizer == "words" and trims:
        raise ValueError(
            "factorize.min_count trims a vocabulary of word pieces, and distill.tokenizer: words makes one of "
            "whole words, trimmed by distill.min_count; set factorize.min_count: null"
        )


def _sparse_methods_fit(params: "Params") -> None:
    sparse = [number for number, method in enumerate(params.prune) if method.method in _SPARSE]
    later = (*params.prune[sparse[0] + 1 :], *params.factorize) if sparse else ()
    if any(training.lora is not None for method in later for training in trainings_of(method)):
        raise ValueError(
            f"training.lora behind prune.method: {params.prune[sparse[0]].method}: adapters would fill the zeros of "
            "a sparse model; train the weights themselves (lora: null)"
        )
    rewinds = [method for method in params.prune if getattr(method, "rewind", None) == "base"]
    if rewinds and (given := _without_a_base(params)):
        own = "none" if rewinds[0].method == "movement" else "start"
        raise ValueError(
            f"prune.rewind: base ({rewinds[0].method}) goes back to the weights of a pre-trained model, which {given} "
            f"does not have; take rewind: {own}"
        )


def _without_a_base(params: "Params") -> str | None:
    """Return the setting because of which no pre-trained model has the student's weights."""
    if params.base.is_new:
        return "base.model: new"
    if params.base.longer_positions is not None:
        return "base.longer_positions"
    own_shape = params.distill.method == "mobilebert" or (
        params.distill.method == "tinybert" and params.distill.blocks is None
    )
    return f"distill.method: {params.distill.method} with a shape of its own" if own_shape else None


def _matrices_are_factorized_once(params: "Params") -> None:
    of_part: dict[str, str] = {}
    for method in params.factorize:
        parts = _factorized(method)
        if method.method == "word_table" and (method.vocabulary is not None or method.min_count is not None):
            first = of_part.get("the word table")
            if first in ("kronecker", "tensor_train") or (first and method.vocabulary is not None):
                raise ValueError(
                    f"factorize.method: word_table changes the rows of a table that method: {first} has made a product "
                    "before; put the methods in the other order, or set vocabulary and min_count to null"
                )
        if twice := [part for part in parts if part in of_part]:
            raise ValueError(
                f"factorize.method: {method.method} factorises {twice[0]}, which method: {of_part[twice[0]]} does "
                "before; leave it out of one of them"
            )
        of_part |= dict.fromkeys(parts, method.method)


def _factorized(method: FactorizeMethod) -> list[str]:
    """Return what a method makes products of, in words."""
    match method:
        case WordTableFactorization():
            return [] if method.rank is None else ["the word table"]
        case LowRankFactorization():
            attention, ffn, table = ("attention" in method.targets, "ffn" in method.targets, False)
        case KroneckerFactorization() | TensorTrainFactorization():
            attention, ffn, table = (part is not None for part in (method.attention, method.ffn, method.table))
    names = ("projections of attentions", "projections of feed-forward networks", "the word table")
    return [name for name, chosen in zip(names, (attention, ffn, table), strict=True) if chosen]


def _layout_fits_the_trainings(params: "Params") -> None:
    if isinstance(params.parallel, str):
        return
    layout = params.parallel
    problems = [
        f"{place}.batch_size {training.batch_size}: data {layout.data} x microbatches {layout.microbatches} = "
        f"{layout.parts} parts of a batch, of which some would always be empty"
        for place, training in trainings_with_keys(params)
        if training.batch_size < layout.parts
    ]
    blocks = getattr(params.distill, "blocks", None)
    if blocks and layout.pipeline > 1 and len(blocks) < layout.stages:
        problems.append(
            f"distill.blocks: {len(blocks)} blocks cannot be cut into the {layout.stages} stages of a pipeline"
        )
    if problems:
        raise ValueError(f"parallel, {layout.factors}: " + "; ".join(problems))


_CHECKS: tuple[Callable[["Params"], None], ...] = (
    _variants_are_steps,
    _methods_fit_the_task,
    _methods_fit_predicted_tokens,
    _gguf_holds_the_model,
    _stages_fit_the_student,
    _sparse_methods_fit,
    _matrices_are_factorized_once,
    _layout_fits_the_trainings,
)


def trainings_with_keys(section: BaseModel, place: str = "") -> Iterator[tuple[str, TrainingParams]]:
    """Yield all trainings of a section, with their keys."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, TrainingParams):
            yield f"{place}{name}", value
        elif isinstance(value, BaseModel):
            yield from trainings_with_keys(value, f"{place}{name}.")
        elif isinstance(value, tuple):
            for number, method in enumerate(value):
                if isinstance(method, BaseModel):
                    key = f"{place}{name}." if len(value) == 1 else f"{place}{name}.{number}."
                    yield from trainings_with_keys(method, key)


def trainings_of(section: Any) -> Iterator[TrainingParams]:
    """Yield all trainings of a stage's section."""
    methods = section if isinstance(section, tuple) else (section,)
    for method in methods:
        if isinstance(method, TrainingParams):
            yield method
        else:
            yield from (training for _, training in trainings_with_keys(method))
