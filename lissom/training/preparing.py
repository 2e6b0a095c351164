"""Temporary changes of a network during a training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.models.families import family_of
from lissom.models.together import members_of
from lissom.training.config import TrainingParams


@contextmanager
def training_mode(network: nn.Module, params: TrainingParams) -> Iterator[None]:
    """Put a network into training mode within the context; afterwards it is in eval mode and has no gradients."""
    frozen = _freeze(network) if params.freeze_word_table else []
    configs = _stop_caching(network)
    network.train()
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for config in configs:
            config.use_cache = True
        network.zero_grad(set_to_none=True)  # a later training that freezes some must not count their old gradients
        network.eval()


def _freeze(network: nn.Module) -> list[nn.Parameter]:
    """Freeze the word tables; return the parameters that were trainable before."""
    networks = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    tables = [network.get_submodule(family_of(network).word_table) for network in networks]
    frozen = [parameter for table in tables for parameter in table.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _stop_caching(network: nn.Module) -> list[PreTrainedConfig]:
    """Disable the key/value cache of decoders, which training does not use; return the changed configs."""
    members = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    configs = [member.config for member in members if getattr(member.config, "use_cache", False)]
    for config in configs:
        config.use_cache = False
    return configs
