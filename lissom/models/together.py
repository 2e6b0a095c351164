"""Networks that are trained side by side: peers, a teacher and its student, a student and its projections."""

from torch import nn


class Together(nn.ModuleList):
    """The members share the steps of one training, and nothing else: each has its own gradient norm.

    One norm over all would let a peer with large gradients slow the others down.
    """


def members_of(network: nn.Module) -> list[nn.Module]:
    """Return the networks that are trained: the members, or the network itself."""
    return list(network) if isinstance(network, Together) else [network]
