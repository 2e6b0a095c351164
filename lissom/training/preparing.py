"""Temporary changes of a network during a training."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.together import members_of
from lissom.training.adapters import adapted
from lissom.training.config import TrainingParams


@contextmanager
def training_mode(network: nn.Module, params: TrainingParams) -> Iterator[None]:
    """Put a network into training mode within the context; afterwards it is in eval mode and has no gradients."""
    frozen = _freeze(network) if params.freeze_word_table else []
    configs = _stop_caching(network)
    checkpointed = _checkpoint(network) if params.gradient_checkpointing else []
    network.train()
    try:
        with adapted(network, params.lora, params.seed):
            yield
    finally:
        for member in checkpointed:
            member.activation_checkpointing_disable()
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


def _checkpoint(network: nn.Module) -> list[PreTrainedModel]:
    """Let the blocks keep nothing but their inputs; return the networks that do."""
    networks = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    for member in networks:
        if not member.supports_gradient_checkpointing:
            raise InputError(
                f"training.gradient_checkpointing: a {member.config.model_type} does not support it; set it to false"
            )
        member.activation_checkpointing_enable({"use_reentrant": False})
    return networks


def _stop_caching(network: nn.Module) -> list[PreTrainedConfig]:
    """Disable the key/value cache of decoders, which training does not use; return the changed configs."""
    members = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    configs = [member.config for member in members if getattr(member.config, "use_cache", False)]
    for config in configs:
        config.use_cache = False
    return configs
