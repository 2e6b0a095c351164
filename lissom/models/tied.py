"""Tied weights: stored once, under one name, and loaded into every place that shares them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.models.sites import tied_head


def tie(network: PreTrainedModel, config: Mapping[str, Any]) -> None:
    """Tie the weights of a new network as its config says.

    transformers always ties a T5 (5.23), and unties on loading what differs in the file.
    """
    network.tie_weights()
    head = tied_head(network)
    if config.get("tie_word_embeddings") is False and head is not None:
        projection = network.get_submodule(head)
        assert isinstance(projection, nn.Linear)
        projection.weight = nn.Parameter(projection.weight.detach().clone())
        network.config.tie_word_embeddings = False


def untied_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict with every tied tensor once, under the first of its names."""
    shared = aliases(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in shared}


def aliases(network: nn.Module) -> dict[str, str]:
    """Map every further name of a tied tensor to its first name."""
    first: dict[int, str] = {}
    result = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            result[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
    return result


def tied_state(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the further names of tied tensors to a state from `untied_state`."""
    return {**state, **{name: state[original] for name, original in aliases(network).items()}}


def assign(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state from `untied_state` by assignment, strictly, and tie shared tensors again."""
    shared = aliases(network)
    network.load_state_dict(tied_state(network, state), strict=True, assign=True)
    tensors = network.state_dict(keep_vars=True)
    for name, original in shared.items():
        place, _, last = name.rpartition(".")
        setattr(network.get_submodule(place), last, tensors[original])
