"""A base model in a GGUF file, dequantised on loading by transformers: weights, config, tokenizer and chat template."""

import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError, advice_for
from lissom.models.source import is_gguf, opened_gguf

_NEEDED = ("gguf", "accelerate")


def pretrained(source: Path | str) -> tuple[Path | str, dict[str, Any]]:
    """Return the first argument of transformers' `from_pretrained` for a source, and further ones.

    Code that lies beside a model is never run, and nobody is asked whether it should be.

    Raises:
        InputError: it is a GGUF file, and damaged, or a package that reads it is missing.
    """
    if not is_gguf(source):
        return source, {"trust_remote_code": False}
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{source}: {advice_for(ModuleNotFoundError(name=name))}")
    assert isinstance(source, Path)
    opened_gguf(source)  # transformers' reader passes on whatever a damaged file leads to
    return source.parent, {"gguf_file": source.name, "trust_remote_code": False}


def read_config(source: Path | str, revision: str | None) -> PreTrainedConfig:
    """Return the config of a source, without the names of code beside it, which later loaders would ask to run.

    Raises:
        InputError: it is a GGUF file, and damaged, or a package that reads it is missing.
        Exception: whatever transformers raises for a config that is missing or damaged.
    """
    place, how = pretrained(source)
    config: PreTrainedConfig = AutoConfig.from_pretrained(place, revision=revision, **how)
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def forget_quantization(network: PreTrainedModel) -> PreTrainedModel:
    """Remove, in place, what transformers keeps of a GGUF file's types, since the weights are floats now; return it."""
    network.hf_quantizer, network.is_quantized = None, False
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    return network
