"""What a training changes about a network for as long as it lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.models.families import family_of
from lissom.models.together import members_of
from lissom.training.config import TrainingParams


@contextmanager
def prepared(network: nn.Module, params: TrainingParams) -> Iterator[None]:
    """Put a network into training mode, and leave it in eval mode, without gradients."""
    frozen = _freeze(network) if params.freeze_word_table else []
    caching = _stop_caching(network)
    network.train()
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        for config in caching:
            config.use_cache = True
        network.zero_grad(set_to_none=True)  # else a later training that freezes some would count their old gradients
        network.eval()


def _freeze(network: nn.Module) -> list[nn.Parameter]:
    """Leave the word tables as they are; return what did learn."""
    networks = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    tables = [network.get_submodule(family_of(network).word_table) for network in networks]
    frozen = [parameter for table in tables for parameter in table.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _stop_caching(network: nn.Module) -> list[PreTrainedConfig]:
    """Tell networks not to keep keys and values for tokens to come: there are none; return the configs of those."""
    configs = [member.config for member in members_of(network) if isinstance(member, PreTrainedModel)]
    found = [config for config in configs if getattr(config, "use_cache", False)]
    for config in found:
        config.use_cache = False
    return found
