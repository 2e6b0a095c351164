"""What autograd keeps for the backward pass, by schedule, with and without recomputation."""

from typing import Any

import numpy as np
import torch

from benchmarks.layouts.networks import LOSS, SMALL, network_of, texts
from lissom.parallel.engine import make_engine
from lissom.parallel.world import World
from tests.distributed.processes import spread


def kept(world: World) -> int:
    """Return the most bytes that autograd holds for the backward pass of a step, on this process."""
    network = network_of(SMALL)
    engine = make_engine(network, LOSS, texts(32, 24, ragged=False), 0, None, world, needs_internals=False)
    engine.gradients(np.arange(32))
    now, most, weights = [0], [0], {item.data_ptr() for item in network.parameters()}

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.size = tensor, 0 if tensor.data_ptr() in weights else tensor.nbytes
            now[0] += self.size
            most[0] = max(most[0], now[0])

        def __del__(self) -> None:
            now[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        engine.gradients(np.arange(32))
    return most[0]


def memory() -> list[dict[str, Any]]:
    """What a stage of two holds with eight micro-batches: all of them, as many as are ahead, or inputs and one."""
    layout: dict[str, Any] = {"pipeline": 2, "microbatches": 8}
    cases: dict[str, dict[str, Any]] = {
        "gpipe": {"schedule": "gpipe"}, "1f1b": {}, "gpipe, recomputed": {"schedule": "gpipe", "recompute": True},
        "1f1b, recomputed": {"recompute": True}, "varuna": {"schedule": "varuna"},
    }  # fmt: skip
    actual = {name: spread(kept, **layout, **more)[0] for name, more in cases.items()}
    item = actual["gpipe"] / 8  # all activations of a micro-batch
    boundary = 4 * 24 * 64 * 4  # what goes into a block: 4 texts, 24 tokens, 64 channels, float32
    blocks = 2
    again = item / blocks  # made anew in the backward pass of a block, which autograd's hooks do not see: added to both
    inputs = (blocks + 1) * boundary  # of the embeddings' norm, too
    theory = {
        "gpipe": 8 * item, "1f1b": 2 * item, "gpipe, recomputed": 8 * inputs + again, "1f1b, recomputed": 2 * inputs + again,
        "varuna": item,
    }  # fmt: skip
    return [
        {
            "part": "memory", "layout": name, "kib_theory": theory[name] / 1024,
            "kib": (held + (again if "recomputed" in name else 0)) / 1024,
        }
        for name, held in actual.items()
    ]  # fmt: skip
