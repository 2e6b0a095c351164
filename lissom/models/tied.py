"""Tied weights: stored once, under one name, and loaded into every place that shares them."""

from collections.abc import Mapping

from torch import Tensor, nn


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
