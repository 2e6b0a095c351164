"""Weights that several places of a network share: stored once, loaded into all."""

from collections.abc import Mapping

from torch import Tensor, nn


def untied(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state with every shared tensor once, under the first of its names."""
    shared = aliases(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in shared}


def aliases(network: nn.Module) -> dict[str, str]:
    """Return for every further name of a shared tensor its first one."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            found[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
    return found


def whole(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state that has a shared tensor once with all of its names."""
    return {**state, **{name: state[original] for name, original in aliases(network).items()}}


def assign(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of a network's own, strictly; what was shared is shared again."""
    shared = aliases(network)
    network.load_state_dict(whole(network, state), strict=True, assign=True)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for name, original in shared.items():
        place, _, last = name.rpartition(".")
        setattr(network.get_submodule(place), last, parameters[original])
