"""Every layout against one process."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.layouts.networks import LOSS, SMALL, network_of, texts
from lissom.parallel.world import World
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from tests.distributed.processes import spread

LAYOUTS: dict[str, dict[str, Any]] = {
    "data 2": {"data": 2},
    "data 2, 2 parts": {"data": 2, "microbatches": 2},
    "data 2, sharded": {"data": 2, "shard": True},
    "tensor 2": {"tensor": 2},
    "tensor 2, split sequence": {"tensor": 2, "sequence": True},
    "gpipe": {"pipeline": 2, "microbatches": 4, "schedule": "gpipe"},
    "1f1b": {"pipeline": 4, "microbatches": 4},
    "interleaved 1f1b": {"pipeline": 2, "microbatches": 4, "schedule": "interleaved_1f1b"},
    "zero bubble": {"pipeline": 2, "microbatches": 4, "schedule": "zero_bubble"},
    "varuna": {"pipeline": 4, "microbatches": 4, "schedule": "varuna"},
    "2 x 2 x 2": {"data": 2, "tensor": 2, "pipeline": 2, "microbatches": 2},
}


def trained(world: World | None, dtype: torch.dtype, seed: int) -> tuple[dict[str, Any], list[float]]:
    """Train the small network for 20 steps; return weights and losses."""
    network = network_of(SMALL, seed).to(dtype)
    params = TrainingParams(epochs=2.5, batch_size=16, learning_rate=1e-3, precision="float32", freeze_word_table=False)
    losses: list[float] = []

    class Listen(Hook):
        def on_record(self, record: dict[str, float]) -> None:
            losses.append(record["loss"])

    fit(network, texts(125, 24, seed=seed), 0, LOSS, params, hooks=[Listen()], world=world)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}, losses


def equality(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield every layout against one process, in float64 and in float32 (where Adam enlarges what rounds differently)."""
    alone = {dtype: trained(None, dtype, seed) for dtype in (torch.float64, torch.float32)}
    for name, layout in LAYOUTS.items():
        figures: dict[str, float] = {}
        for dtype, (weights, losses) in alone.items():
            state, report = spread(trained, dtype, seed, **layout)[0]
            kind = str(dtype).removeprefix("torch.")
            figures[f"weights_{kind}"] = max(float(np.abs(state[key] - weights[key]).max()) for key in weights)
            figures[f"losses_{kind}"] = max(abs(ours - theirs) for ours, theirs in zip(report, losses, strict=True))
        yield name, figures
