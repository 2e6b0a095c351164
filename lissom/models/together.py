"""Networks that are trained together: peers, a teacher and its student, a student and its projections."""

from torch import nn


class Together(nn.ModuleList):
    """Several networks in one training; gradients are clipped per member.

    With one norm over all members, a peer with large gradients would scale down the gradients of the others.
    """


def members_of(network: nn.Module) -> list[nn.Module]:
    """Return the members of a `Together`, or the network itself."""
    return list(network) if isinstance(network, Together) else [network]
