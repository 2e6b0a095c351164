"""The state of this process's random number generators, of the CPU and of the GPU if there is one."""

import torch
from torch import Tensor


def random_state() -> tuple[Tensor, ...]:
    """Return the current state."""
    states = [torch.get_rng_state()]
    return (*states, torch.cuda.get_rng_state()) if torch.cuda.is_available() else tuple(states)


def set_random_state(state: tuple[Tensor, ...]) -> None:
    """Restore a state."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
