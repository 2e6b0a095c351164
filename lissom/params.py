"""The params of a whole pipeline, composed of one section per stage."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from lissom.artifacts import FINAL, STEPS, TEACHER, Step
from lissom.cluster import ClusterParams
from lissom.data.config import DataParams, TaskKind
from lissom.distill.config import DistillParams, NoDistillation
from lissom.distill.offline_config import DistilBertDistillation
from lissom.emissions.config import EmissionsParams
from lissom.errors import ParamsError
from lissom.evaluate.config import EvaluateParams
from lissom.explanation import explain
from lissom.export.config import ExportParams
from lissom.factorize.config import FactorizeParams
from lissom.gguf.config import GgufParams
from lissom.models.config import BaseParams
from lissom.overrides import apply_override
from lissom.parallel.config import ParallelParams
from lissom.prune.config import PruneParams
from lissom.quantize.config import QuantizeParams
from lissom.safe_yaml import parse
from lissom.section import Section
from lissom.tracking.config import GatesParams, TrackingParams
from lissom.training.config import RecoveryParams, TeacherParams, TrainingParams

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


class Params(Section):
    """All sections of params.yaml. A compression stage without a section does not change its model."""

    base: BaseParams
    data: DataParams
    teacher: TeacherParams = TeacherParams()
    distill: DistillParams = Field(default=NoDistillation(method="none"))
    prune: PruneParams = ()
    factorize: FactorizeParams = ()
    quantize: QuantizeParams = ()
    variants: tuple[Step, ...] = STEPS
    """Stages whose model is exported and measured: `teacher` first, `quantize` last, and any others between."""
    export: ExportParams = ExportParams()
    evaluate: EvaluateParams = EvaluateParams()
    emissions: EmissionsParams = EmissionsParams()
    tracking: TrackingParams = TrackingParams()
    gates: GatesParams = GatesParams()
    parallel: ParallelParams | Literal["auto"] = ParallelParams()
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> "Params":
        problems = []
        for check in (
            self._variants_are_steps, self._methods_fit_the_task, self._methods_fit_predicted_tokens,
            self._gguf_holds_the_model, self._stages_fit_the_student, self._sparse_methods_fit,
            self._layout_fits_the_trainings,
        ):  # fmt: skip
            try:
                check()
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _variants_are_steps(self) -> None:
        ordered = tuple(step for step in STEPS if step in self.variants)
        if self.variants != ordered or not {TEACHER, FINAL} <= set(ordered):
            raise ValueError(
                f"variants: {', '.join(self.variants)}: {TEACHER} and {FINAL} must be there, since they are compared, "
                f"each once and in the order {', '.join(STEPS)}"
            )

    def _methods_fit_the_task(self) -> None:
        leaves_early = self.distill.method == "fastbert" or getattr(self.distill, "keep_exits", False)
        if self.data.is_numeric and leaves_early:
            raise ValueError(
                f"distill.method: {self.distill.method} makes exits that are left when the entropy over the labels is "
                f"low, and data.task: {self.data.task} has a number without one; take another method, or "
                "deep_to_shallow with keep_exits: false"
            )
        if self.data.is_per_token and self.distill.method in _OF_WHOLE_TEXTS:
            raise ValueError(
                f"distill.method: {self.distill.method} answers whole texts, and data.task: {self.data.task} asks "
                f"for a label of every word; take another method than {', '.join(_OF_WHOLE_TEXTS)}"
            )

    def _methods_fit_predicted_tokens(self) -> None:
        if not self.data.predicts_tokens:
            if self.distill.method == "sequence":
                raise ValueError(
                    f"distill.method: sequence learns texts that the teacher writes, and data.task: {self.data.task} "
                    "has none; take another method"
                )
            return
        allowed = _OF_TOKENS[self.data.task]
        if self.distill.method not in allowed:
            raise ValueError(
                f"distill.method: {self.distill.method} is not made for data.task: {self.data.task}; allowed: "
                f"{', '.join(allowed)}"
            )
        if isinstance(self.distill, DistilBertDistillation):
            if self.distill.pretraining is not None:
                raise ValueError(
                    "distill.pretraining trains a language model before the task, and data.task: "
                    f"{self.data.task} is that already; set it to null"
                )
            if self.distill.signals.source == "cached":
                raise ValueError(
                    "distill.signals.source: cached would keep a distribution over all tokens for every token of the "
                    "texts; set it to live or auto"
                )
        counts = [getattr(method, "min_count", None) for method in self.factorize]
        if any(count is not None and count > 1 for count in counts):
            raise ValueError(
                "factorize.min_count above 1 divides training texts into other tokens than those that the teacher "
                f"predicts with data.task: {self.data.task}; set it to 1, which removes what no training text has, or "
                "to null"
            )
        warm = [
            f"{place}.loss.temperature"
            for place, training in _trainings(self)
            if isinstance(training, RecoveryParams) and training.loss.temperature != 1
        ]
        if warm:
            raise ValueError(
                f"{', '.join(warm)}: the teacher's distribution is cached as its most likely tokens and the mass of "
                "the rest, which is exact at temperature 1 only; set each to 1"
            )

    def _gguf_holds_the_model(self) -> None:
        of_gguf = [method for method in self.quantize if method.method == "gguf"]
        if "gguf" not in self.export.formats:
            if of_gguf:
                raise ValueError("quantize.method: gguf trains for GGUF files; set export.formats: [gguf]")
            return
        if self.data.task == "translation":
            raise ValueError(
                "export.formats: gguf is for llama.cpp and Ollama, which run language models and encoders for "
                f"embeddings, and data.task is {self.data.task}; set export.formats: [onnx]"
            )
        writes = self.data.task == "language_modeling"
        unused = _OF_EMBEDDINGS if writes else _OF_WRITING
        defaults = GgufParams()
        named = [name for name in unused if getattr(self.export.gguf, name) != getattr(defaults, name)]
        if named:
            raise ValueError(
                f"export.gguf.{named[0]} is for {'embeddings' if writes else 'models that write'}, and data.task is "
                f"{self.data.task}; leave it out"
            )
        if len(of_gguf) < len(self.quantize):
            other = next(method.method for method in self.quantize if method.method != "gguf")
            raise ValueError(
                f"quantize.method: {other} stores the model in a form that a GGUF file cannot express; set "
                "quantize.method to gguf, or to none: export.gguf.types quantise the weights anyway"
            )
        missing = [method.type for method in of_gguf if method.type not in self.export.gguf.types]
        if missing:
            raise ValueError(
                f"quantize.type: {missing[0]} is not among export.gguf.types ({', '.join(self.export.gguf.types)}); "
                "name it there"
            )

    def _stages_fit_the_student(self) -> None:
        if self.distill.method in ("lstm", "static") and self.prune:
            raise ValueError(
                f"prune.method: {self.prune[0].method} removes heads and neurons of Transformer blocks, and "
                f"distill.method: {self.distill.method} makes a student without blocks; set prune.method: none"
            )
        makes_exits = self.distill.method in ("fastbert", "deep_to_shallow")
        if makes_exits and any(
            method.method == "hidden" or (method.method == "gates" and "channels" in method.units)
            for method in self.prune
        ):
            raise ValueError(
                f"prune.method: hidden, or gates on channels, removes the same channels from every layer, and "
                f"distill.method: {self.distill.method} makes exits that read all of them; take another method of one "
                "of both"
            )
        writes = self.data.task in ("language_modeling", "translation")
        if writes and any(getattr(method, "vocabulary", None) is not None for method in self.factorize):
            raise ValueError(
                f"factorize.vocabulary: a model of data.task: {self.data.task} predicts its own tokens, and so does "
                "its teacher; set it to null"
            )
        trims = any(getattr(method, "min_count", None) is not None for method in self.factorize)
        if self.distill.method == "lstm" and self.distill.tokenizer == "words" and trims:
            raise ValueError(
                "factorize.min_count trims a vocabulary of word pieces, and distill.tokenizer: words makes one of "
                "whole words, trimmed by distill.min_count; set factorize.min_count: null"
            )

    def _sparse_methods_fit(self) -> None:
        sparse = [number for number, method in enumerate(self.prune) if method.method in _SPARSE]
        later = (*self.prune[sparse[0] + 1 :], *self.factorize) if sparse else ()
        if any(training.lora is not None for method in later for training in trainings_of(method)):
            raise ValueError(
                f"training.lora behind prune.method: {self.prune[sparse[0]].method}: adapters would fill the zeros of "
                "a sparse model; train the weights themselves (lora: null)"
            )
        rewinds = any(method.method == "lottery_ticket" and method.rewind == "base" for method in self.prune)
        if rewinds and (self.base.is_new or self.base.longer_positions is not None):
            given = "base.model: new" if self.base.is_new else "base.longer_positions"
            raise ValueError(
                f"prune.rewind: base goes back to the weights of a pre-trained model, which {given} does not have; "
                "take rewind: start"
            )

    def _layout_fits_the_trainings(self) -> None:
        if isinstance(self.parallel, str):
            return
        layout = self.parallel
        problems = [
            f"{place}.batch_size {training.batch_size}: data {layout.data} x microbatches {layout.microbatches} = "
            f"{layout.parts} parts of a batch, of which some would always be empty"
            for place, training in _trainings(self)
            if training.batch_size < layout.parts
        ]
        blocks = getattr(self.distill, "blocks", None)
        if blocks and layout.pipeline > 1 and len(blocks) < layout.stages:
            problems.append(
                f"distill.blocks: {len(blocks)} blocks cannot be cut into the {layout.stages} stages of a pipeline"
            )
        if problems:
            raise ValueError(f"parallel, {layout.factors}: " + "; ".join(problems))


def _trainings(section: BaseModel, place: str = "") -> Iterator[tuple[str, TrainingParams]]:
    """Yield all trainings of a section, with their keys."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, TrainingParams):
            yield f"{place}{name}", value
        elif isinstance(value, BaseModel):
            yield from _trainings(value, f"{place}{name}.")
        elif isinstance(value, tuple):
            for number, method in enumerate(value):
                if isinstance(method, BaseModel):
                    key = f"{place}{name}." if len(value) == 1 else f"{place}{name}.{number}."
                    yield from _trainings(method, key)


def trainings_of(section: Any) -> Iterator[TrainingParams]:
    """Yield all trainings of a stage's section."""
    methods = section if isinstance(section, tuple) else (section,)
    for method in methods:
        if isinstance(method, TrainingParams):
            yield method
        else:
            yield from (training for _, training in _trainings(method))


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check a params file; `overrides` are `section.key=value` with the value in YAML.

    Raises:
        ParamsError: the file is missing or no YAML mapping, or keys are unknown, missing or out of range. All
            errors of the file are listed at once, each with its key, the value given and what is allowed.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such params file; `lissom init` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not a YAML file in UTF-8: {error}") from None
    except IsADirectoryError:
        raise ParamsError(f"{path}: a folder; name the params file in it") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: a mapping of sections is expected, found {type(values).__name__}")
    for override in overrides:
        apply_override(values, override)
    return check_params(values, str(path))


def check_params(values: Mapping[str, Any], origin: str = "params") -> Params:
    """Check params that are given as a mapping; raises `ParamsError` as `load_params` does."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [line for detail in error.errors() for line in explain(dict(detail), values, Params).split("\n")]
    lines = list(dict.fromkeys(filter(None, lines)))
    raise ParamsError(f"{origin}: {len(lines)} error{'s'[: len(lines) != 1]}\n" + "\n".join(lines))
