"""What a stage of a pipeline holds for the backward pass, by schedule, with and without recomputation.

The expectation and the measurement have nothing in common: one micro-batch through the stage alone, in one process,
times the sets that the simulator holds at once; against what a training step of the pipeline holds.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.layouts.networks import LOSS, SMALL, network_of, texts
from lissom.data.batches import collate
from lissom.models.compressed import inputs_of
from lissom.parallel.engine import make_engine
from lissom.parallel.replicas import recompute_blocks
from lissom.parallel.schedules import make_schedule
from lissom.parallel.simulator import simulate
from lissom.parallel.stages import Stretch, split_blocks
from lissom.parallel.world import World
from tests.distributed.processes import spread

MICROBATCHES = 8
CASES: dict[str, dict[str, Any]] = {
    "gpipe": {"schedule": "gpipe"}, "1f1b": {"schedule": "1f1b"},
    "gpipe, recomputed": {"schedule": "gpipe", "recompute": True},
    "1f1b, recomputed": {"schedule": "1f1b", "recompute": True}, "varuna": {"schedule": "varuna"},
}  # fmt: skip

_STAGES, _TEXTS, _LENGTH = 2, 32, 24


def memory(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield, for every case, what the first of two stages is expected to hold and what it holds, in KiB."""
    for name, case in CASES.items():
        simulated = simulate(make_schedule(case["schedule"], _STAGES, MICROBATCHES))
        sets = simulated.peak_activations()[0]
        alone = _alone(seed, recompute=case.get("recompute", False))
        saved, live = spread(_held, seed, pipeline=_STAGES, microbatches=MICROBATCHES, **case)[0]
        yield name, {
            "kib_one_microbatch": alone / 1024, "sets_simulated": sets, "kib_expected": sets * alone / 1024,
            "kib_saved": saved / 1024, "kib_live": live / 1024,
        }  # fmt: skip


def _alone(seed: int, *, recompute: bool) -> int:
    """Return the bytes that autograd saves for one micro-batch on the first stage, alone in this process."""
    network = network_of(SMALL, seed).train()
    cuts = split_blocks(network, _STAGES)
    if recompute:
        recompute_blocks(network)
    stretch = Stretch(network, cuts, 0)
    data = texts(_TEXTS // MICROBATCHES, _LENGTH, ragged=False)
    inputs = inputs_of(network, collate(data, np.arange(len(data)), 0))
    with _saved(network) as most:
        output = stretch(**inputs)
    del output
    return most[0]


def _held(world: World, seed: int) -> tuple[int, int]:
    """Return the most bytes that autograd saves in a step, and those of all tensors that the step makes, at once.

    Autograd's hooks do not see what is recomputed in the backward pass; the live tensors have it, and gradients and
    temporary results besides.
    """
    network = network_of(SMALL, seed)
    engine = make_engine(
        network, LOSS, texts(_TEXTS, _LENGTH, ragged=False), 0, None, world, needs_internals=False
    )  # fmt: skip
    engine.gradients(np.arange(_TEXTS))
    with _saved(network) as saved:
        engine.gradients(np.arange(_TEXTS))
    with _Live() as live:
        engine.gradients(np.arange(_TEXTS))
    return saved[0], live.most


@contextmanager
def _saved(network: torch.nn.Module) -> Iterator[list[int]]:
    """Yield a list whose only item is the most bytes that autograd has saved at once, weights left out."""
    now, most, weights = [0], [0], {item.data_ptr() for item in network.parameters()}

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.size = tensor, 0 if tensor.data_ptr() in weights else tensor.nbytes
            now[0] += self.size
            most[0] = max(most[0], now[0])

        def __del__(self) -> None:
            now[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        yield most


class _Live(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """Counts the bytes of the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.most = self._now = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, kinds: Any, argument: Any = (), named: Any = None) -> Any:
        before = {
            id(item.untyped_storage()) for item in tree_leaves((argument, named)) if isinstance(item, torch.Tensor)
        }
        output = function(*argument, **(named or {}))
        for item in tree_leaves(output):
            if not isinstance(item, torch.Tensor):
                continue
            storage = item.untyped_storage()
            if id(storage) in before or storage in self._known:
                continue
            self._known.add(storage)
            size = storage.nbytes()
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._free, size)
        return output

    def _free(self, size: int) -> None:
        self._now -= size
