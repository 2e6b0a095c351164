"""What the loop costs beside plain DDP code, and whether the cost model of `parallel: auto` orders layouts rightly."""

import copy
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.layouts.networks import LOSS, MINILM, network_of, texts
from lissom.data.batches import collate, shuffled_batches
from lissom.parallel.config import ParallelParams
from lissom.parallel.engine import make_engine
from lissom.parallel.measuring import this_machine, workload
from lissom.parallel.plan import Machine, estimate
from lissom.parallel.world import World
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from lissom.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from tests.distributed.processes import spread

LAYOUTS: tuple[dict[str, int], ...] = (
    {"data": 2}, {"tensor": 2}, {"pipeline": 2, "microbatches": 2}, {"pipeline": 2, "microbatches": 8},
)  # fmt: skip
ROUNDS = 6
_STEPS, _WARM_UPS = 8, 2
STEPS = ROUNDS * (_STEPS - _WARM_UPS - 1)


def overhead(world: World, seed: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of steps of our loop and of plain DDP code, taken in turn; the first of each round are left out."""
    data = texts(32 * _STEPS, 48, ragged=False)
    params = TrainingParams(epochs=1, batch_size=32, precision="float32", seed=seed)
    seconds: dict[str, list[float]] = {"lissom": [], "plain DDP": []}

    class Clock(Hook):
        """Notes when steps begin."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def before_step(self, *_: int) -> None:
            self.times.append(time.perf_counter())

    def plain(network: Any, clock: Clock) -> None:
        network.train()
        network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        ddp = DistributedDataParallel(network)
        optimizer = make_optimizer(dict(network.named_parameters()), params)
        for step, members in enumerate(shuffled_batches(data.lengths, 32, seed, 0)):
            clock.before_step(step, _STEPS)
            set_learning_rate(optimizer, learning_rate(step, _STEPS, params))
            batch = collate(data, np.array_split(members, 2)[world.rank], 0)
            optimizer.zero_grad(set_to_none=True)
            logits = ddp(**batch.inputs).logits
            torch.nn.functional.cross_entropy(logits, batch.targets).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    def ours(network: Any, clock: Clock) -> None:
        fit(network, data, 0, LOSS, params, hooks=[clock], world=world)

    start = network_of(MINILM, seed, dropout=0.1)
    for number in range(rounds):
        turn = [("lissom", ours), ("plain DDP", plain)]
        for name, train in turn if number % 2 else turn[::-1]:
            network, clock = copy.deepcopy(start), Clock()
            world.any(False)
            train(network, clock)
            seconds[name] += np.diff(clock.times)[_WARM_UPS:].tolist()
    return seconds


def step_seconds(world: World) -> float:
    """Return the median time of a step of the larger network."""
    network = network_of(MINILM)
    network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    engine = make_engine(network, LOSS, texts(64, 64, ragged=False), 0, None, world, needs_internals=False)
    times = []
    for _ in range(6):
        world.any(False)
        began = time.perf_counter()
        engine.gradients(np.arange(32))
        world.any(False)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def label(layout: dict[str, int]) -> str:
    """Return the name of a row."""
    params = ParallelParams.model_validate(layout)
    return f"{params.factors}, {params.microbatches} parts"


def predictions() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the cost model's milliseconds beside the measured ones, for layouts of two processes with one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = this_machine()
    torch.set_num_threads(threads)
    machine = Machine(2, 1, here.memory_bytes, here.flops, here.near_bytes, here.far_bytes, here.latency_seconds)
    work = workload(network_of(MINILM), 32, 64)
    for layout in LAYOUTS:
        measured = max(spread(step_seconds, **layout))
        predicted = estimate(work, machine, ParallelParams.model_validate(layout)).seconds
        yield label(layout), {"ms_predicted": predicted * 1e3, "ms_measured": measured * 1e3}
