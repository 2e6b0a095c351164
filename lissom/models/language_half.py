"""The language model inside a model of images and texts, such as LLaVA (Liu et al. 2023, arXiv:2304.08485)."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError
from lissom.tasks.kinds import AnyTask
from lissom.tasks.language_modeling import LanguageModeling

NOTE = (
    "only its language model is read: it keeps its answers to texts. The projector and the image encoder are left out, "
    "since what follows changes the model that they were trained for, and is measured on texts alone"
)


def has_language_half(config: PreTrainedConfig) -> bool:
    """Return whether a config is that of a model with a language model and an image encoder."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config")


def language_config(config: PreTrainedConfig, task: AnyTask) -> PreTrainedConfig:
    """Return the config of the language model.

    Raises:
        InputError: the task is none of language models.
    """
    if not isinstance(task, LanguageModeling):
        raise InputError(
            f"base.model: a {config.model_type} holds a language model, whose data.task is language_modeling, not "
            f"{task.describe()}"
        )
    inner: PreTrainedConfig = config.text_config
    if inner.pad_token_id is None:
        inner.pad_token_id = config.pad_token_id
    return inner


def load_language_half(
    source: Path | str, revision: str | None, config: PreTrainedConfig
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load the whole model, and return its language model with what transformers tells of the weights."""
    whole, info = AutoModelForImageTextToText.from_pretrained(
        source, revision=revision, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    half = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    half.base_model.load_state_dict(whole.base_model.language_model.state_dict())
    half.get_output_embeddings().load_state_dict(whole.get_output_embeddings().state_dict())
    return half, {"missing_keys": info["missing_keys"], "mismatched_keys": info["mismatched_keys"]}
