"""The base model: loaded from a package, the hub or a folder, with a new head for the task."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from lissom.artifacts import MANIFEST, WEIGHTS
from lissom.errors import InputError
from lissom.models.base_tokenizer import read_tokenizers, tokenizer_config
from lissom.models.capabilities import check_family, technique_of
from lissom.models.checks import check_positions, check_tokens, count_positions, fit_head
from lissom.models.compressed import CompressedModel
from lissom.models.config import BaseParams
from lissom.models.directory import file_sha256, load
from lissom.models.edits import Edit, ExtendPositions, UseAttention
from lissom.models.families import FAMILIES, classifier_of
from lissom.models.fused import separate
from lissom.models.generation import settings_of_writing, take_ends
from lissom.models.gguf_file import forget_quantization, pretrained, read_config
from lissom.models.language_half import NOTE, has_language_half, language_config, load_language_half
from lissom.models.loading import loading
from lissom.models.manifest import Manifest
from lissom.models.new import new_model
from lissom.models.patterned import honour_windows
from lissom.models.sites import tied_head
from lissom.models.source import is_gguf, locate
from lissom.models.students import config_values
from lissom.tasks.kinds import AnyTask
from lissom.tasks.labels import LabelTask
from lissom.tasks.language_modeling import LanguageModeling
from lissom.tasks.translation import Translation


def load_base(
    params: BaseParams,
    task: AnyTask,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
    *,
    needs_head: bool = False,
    texts: Callable[[], Iterable[str]] | None = None,
) -> CompressedModel:
    """Load the base model and give it a head for the task, initialised from `seed`.

    A head that was trained for the same labels is kept, its rows in the order of the task's labels.

    Args:
        params: the base model and the longest input.
        task: the task.
        seed: seed of a new head.
        tell: gets a message for the user if the base model's own head is changed.
        needs_head: whether the model must have a head that was trained for the task.
        texts: returns the training texts, from which the vocabulary of a new model is learnt.

    Raises:
        InputError: the source is not found, its digest differs, its family is unknown, weights besides the head are
            missing, the tokenizer has no fast form or tokens without a row, or the longest input exceeds the positions.
    """
    if params.is_new:
        return _make_new(params, task, seed, texts, needs_head=needs_head)
    source, revision = locate(params.model)
    if params.sha256 is not None:
        _check_digest(source, params)
    if isinstance(source, Path) and (source / MANIFEST).is_file():
        return _continue_from(source, params, task)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with loading(params.model, source):
        place, how = pretrained(source)
        config = read_config(source, revision)
        read = read_tokenizers(params.model, source, revision, config)
    tokenizer = read.transformers
    is_half = has_language_half(config)
    if is_half:
        config = language_config(config, task)
        tell(f"base.model {params.model}: {NOTE}")
    if config.model_type not in FAMILIES:
        raise InputError(
            f"base.model {params.model}: type {config.model_type!r} is not known; known: {', '.join(sorted(FAMILIES))}"
        )
    check_family(config.model_type, technique_of(task), f"base.model {params.model}")
    names = [str(name) for _, name in sorted(config.id2label.items())]
    for name, value in task.head_config().items():
        setattr(config, name, value)
    # GPT-2 has no padding token; its end of text serves, since what is masked is not read.
    choices = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    config.pad_token_id = next((token for token in choices if token is not None), None)
    if config.pad_token_id is None:
        raise InputError(
            f"base.model {params.model}: neither config nor tokenizer names a token for padding, or the end of a text; "
            "add one"
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default")
    if isinstance(task, LanguageModeling) and isinstance(template, str):
        tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        task = task.model_copy(update={"chat_template": template, "chat_tokens": tokens})
    task = _with_start(task, config)
    torch.manual_seed(seed)
    with loading(params.model, source):
        if is_half:
            network, info = load_language_half(place, revision, config)
        else:
            network, info = task.auto_class.from_pretrained(
                place,
                revision=revision,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                **how,
                ignore_mismatched_sizes=True,  # a head for other labels is replaced; anything else is refused below
            )
    network = forget_quantization(network)
    if task.continues_texts or task.writes_texts:
        take_ends(network)
        config.eos_token_id = network.config.eos_token_id
    if dropped := settings_of_writing(network):
        file = "the exported file searches with export.beams" if task.writes_texts else "and so do exported files"
        tell(
            f"base.model {params.model}: its own settings of writing ({', '.join(dropped)}) are left out: torch takes "
            f"the most likely token, {file}"
        )
    fresh = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
    _check_fresh(params.model, network, fresh)
    if task.writes_texts and tied_head(network) is None:  # T5 1.1 and Flan-T5: a config of their class never says so
        config.tie_word_embeddings = network.config.tie_word_embeddings = False
    check_tokens(params.model, network, read.texts)
    positions = count_positions(network)
    if params.longer_positions is None:
        check_positions(params.model, positions, params.max_length)
    head = classifier_of(network)
    if needs_head and (fresh or (isinstance(task, LabelTask) and sorted(names) != sorted(task.labels))):
        raise InputError(
            f"base.model {params.model}: teacher.method is none, but the model has no head for {task.describe()}; set "
            "teacher.method: fine_tune"
        )
    if isinstance(task, LabelTask) and head is not None and not any(name.startswith(head) for name in fresh):
        done = fit_head(network, names, task.labels)
        if done is not None:
            tell(f"base.model {params.model}: {done}")
    network = separate(network).eval()
    honour_windows(network)
    model = CompressedModel(
        network=network,
        tokenizer=read.texts,
        target_tokenizer=read.targets,
        tokenizer_config=tokenizer_config(tokenizer, params.max_length),
        manifest=Manifest(
            base=params.model,
            base_sha256=params.sha256,
            base_config=config_values(config),
            task=task,
        ),
    )
    model.edit(_for_long_texts(params, positions))
    return model


def _for_long_texts(params: BaseParams, positions: int | None) -> list[Edit]:
    """Return the edits that let a model read texts of the longest input."""
    edits: list[Edit] = []
    if params.longer_positions is not None and positions is not None and params.max_length > positions:
        edits.append(ExtendPositions(length=params.max_length, how=params.longer_positions))
    if params.attention:
        edits.append(UseAttention(patterns=params.attention))
    return edits


def load_language_model(params: BaseParams, key: str = "base.model") -> PreTrainedModel:
    """Load the base model with its language-model head: masked, or causal for a decoder.

    Args:
        params: the model.
        key: the params key that names it, for error messages.

    Raises:
        InputError: the source is not found, or has no such head.
    """
    source, revision = locate(params.model, key)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with loading(params.model, source, key):
        place, how = pretrained(source)
        config = read_config(source, revision)
        decoder = config.model_type in FAMILIES and FAMILIES[config.model_type].decoder
        loader = AutoModelForCausalLM if decoder else AutoModelForMaskedLM
        network, info = loader.from_pretrained(
            place, revision=revision, config=config, dtype=torch.float32, output_loading_info=True, **how
        )
    if info["missing_keys"]:
        raise InputError(
            f"{key} {params.model}: it has no language-model head (missing: {sorted(info['missing_keys'])[0]}); "
            "a teacher that was trained for something else cannot show how to predict words"
        )
    language_model: PreTrainedModel = separate(forget_quantization(network)).eval()
    return language_model


def _make_new(
    params: BaseParams, task: AnyTask, seed: int, texts: Callable[[], Iterable[str]] | None, *, needs_head: bool
) -> CompressedModel:
    if texts is None or needs_head:
        wanted = "teacher.method: none" if needs_head else "this method of distillation"
        raise InputError(
            f"base.model {params.model}: a new model knows nothing yet, and {wanted} takes the base model as it is; "
            "set teacher.method: fine_tune, or another method"
        )
    model = new_model(params, task, seed, texts())
    model.manifest = model.manifest.model_copy(update={"task": _with_start(task, model.network.config)})
    model.edit(_for_long_texts(params, count_positions(model.network)))
    return model


def _with_start(task: AnyTask, config: PreTrainedConfig) -> AnyTask:
    """Return the task of a decoder with the token that it reads first."""
    if not isinstance(task, Translation):
        return task
    start = getattr(config, "decoder_start_token_id", None)
    return task.model_copy(update={"start_id": config.pad_token_id if start is None else start})


def _continue_from(source: Path, params: BaseParams, task: AnyTask) -> CompressedModel:
    model = load(source)
    if not model.manifest.task.same_question(task):
        raise InputError(
            f"base.model {params.model}: made for {model.manifest.task.describe()}, the data has {task.describe()}"
        )
    if isinstance(model.manifest.task, LanguageModeling):
        template = model.manifest.task.model_dump(include={"chat_template", "chat_tokens"})
        task = task.model_copy(update=template)
    task = _with_start(task, model.network.config)
    model.manifest = model.manifest.model_copy(update={"task": task})
    positions = count_positions(model.network)
    if params.longer_positions is None:
        check_positions(params.model, positions, params.max_length)
    model.edit(_for_long_texts(params, positions))
    return model


def _check_digest(source: Path | str, params: BaseParams) -> None:
    if not isinstance(source, Path):
        raise InputError(f"base.sha256 is set, but {params.model} is no file; pin a hub model by its @revision instead")
    weights = source if is_gguf(source) else source / WEIGHTS
    if not weights.is_file():
        raise InputError(f"base.model {params.model}: there is no {WEIGHTS} in {source}")
    digest = file_sha256(weights)
    if digest != params.sha256:
        raise InputError(
            f"base.model {params.model}: {weights.name} has sha256 {digest}, base.sha256 expects {params.sha256}"
        )


def _check_fresh(model: str, network: PreTrainedModel, fresh: list[str]) -> None:
    """Raise `InputError` if newly initialised parameters (`fresh`) lie outside the head."""
    family = FAMILIES[network.config.model_type]
    heads = (*family.head, family.token_classifier or family.classifier)
    names = [name for name in fresh if not name.startswith(heads) or name.startswith("lm_head")]
    if names:
        raise InputError(f"base.model {model}: weights besides the head are missing or misshapen: {sorted(names)[:5]}")
