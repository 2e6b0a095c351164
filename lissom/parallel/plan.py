"""Which layout? A cost model of a step, over all layouts that are possible, and the reasons for the one it proposes.

Compute is shared by all; the bubble of a pipeline, (p - 1) / m, comes on top, four all-reduces of the activations per
block for cut layers, one boundary's activations to the next stage and back, one all-reduce of the gradients over the
replicas (Narayanan et al. 2021, arXiv:2104.04473, §3). Memory: weights, gradients and AdamW's moments, 16 bytes for a
parameter, and the activations in flight. Torch-free.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lissom.errors import InputError
from lissom.models.sizes import Anatomy
from lissom.parallel.config import ParallelParams

_STATE_BYTES = 16
"""For a trained parameter: value, gradient, two moments, in float32."""
_ACTIVATION_VALUES = 34
"""Values of a block that the backward pass needs, per token and channel (Korthikanti et al. 2022, arXiv:2205.05198)."""
_VALUE_BYTES = 4
_FLOPS = 6
"""Per parameter and token: two forward, four backward."""
_USABLE = 0.9
"""Share of a device's memory that may be planned for."""


@dataclass(frozen=True)
class Workload:
    """One step of a training."""

    anatomy: Anatomy
    width: int
    heads: int
    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Return the tokens of a step."""
        return self.batch * self.length

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return len(self.anatomy.blocks)


@dataclass(frozen=True)
class Machine:
    """What the work is spread over; `near` is within a node, `far` between nodes."""

    devices: int
    nodes: int
    memory_bytes: float
    """Of one device."""
    flops: float
    """That one device really does in a second."""
    near_bytes: float
    """A second, through one device."""
    far_bytes: float
    latency_seconds: float
    """Of one message."""

    @property
    def per_node(self) -> int:
        """Return the devices of a node."""
        return self.devices // self.nodes


@dataclass(frozen=True)
class Estimate:
    """What a step is expected to take in a layout, in seconds, and to hold on the fullest device."""

    params: ParallelParams
    compute: float
    bubble: float
    tensor: float
    pipeline: float
    data: float
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """Return the time of a step."""
        return self.compute + self.bubble + self.tensor + self.pipeline + self.data


def estimate(work: Workload, machine: Machine, params: ParallelParams) -> Estimate:
    """Return what a step takes and holds in a layout."""
    data, tensor, pipeline, micro = params.data, params.tensor, params.pipeline, params.microbatches
    matrices = work.anatomy.attention + work.anatomy.ffn
    compute = _FLOPS * matrices * work.tokens / (machine.flops * params.world)
    compute *= 4 / 3 if params.recompute else 1  # forward once more
    tokens = work.tokens / params.parts
    activation = tokens * work.width * _VALUE_BYTES
    blocks = work.blocks / pipeline
    messages = 4 * blocks * micro
    speed = machine.near_bytes if tensor <= machine.per_node else machine.far_bytes
    share = 2 * (tensor - 1) / tensor
    cut = messages * (share * activation / speed + machine.latency_seconds) if tensor > 1 else 0.0
    across = machine.near_bytes if tensor * pipeline <= machine.per_node else machine.far_bytes
    passed = 2 * micro * (activation / across + machine.latency_seconds) if pipeline > 1 else 0.0
    held = (work.anatomy.total - work.anatomy.word_table) / (tensor * pipeline)  # the word table is frozen by default
    reduced = 0.0
    if data > 1:
        ring = machine.near_bytes if params.world <= machine.per_node else machine.far_bytes
        reduced = 2 * (data - 1) / data * held * _VALUE_BYTES / ring + machine.latency_seconds
        reduced *= 1.5 if params.shard else 1  # weights are gathered twice, gradients scattered once
    state = held * _STATE_BYTES / (data if params.shard else 1) + work.anatomy.word_table * _VALUE_BYTES / tensor
    if (
        params.shard or tensor * pipeline > 1
    ):  # between trainings every process has the whole network, to score and save
        state += work.anatomy.total * _VALUE_BYTES
    flying = min(pipeline, micro) if pipeline > 1 else 1
    kept = 2 if params.recompute else _ACTIVATION_VALUES / tensor
    return Estimate(
        params=params,
        compute=compute,
        bubble=compute * (pipeline - 1) / micro,
        tensor=cut,
        pipeline=passed,
        data=reduced,
        memory_bytes=state + flying * blocks * activation * kept,
    )


def propose(work: Workload, machine: Machine) -> list[Estimate]:
    """Return the layouts that fit, the fastest first.

    Raises:
        InputError: none fits the devices' memory.
    """
    everything = [estimate(work, machine, params) for params in _layouts(work, machine)]
    fitting = [one for one in everything if one.memory_bytes <= _USABLE * machine.memory_bytes]
    if not fitting:
        least = min(everything, key=lambda one: one.memory_bytes)
        raise InputError(
            f"parallel: auto: no layout fits {machine.devices} devices of {machine.memory_bytes / 1e9:.1f} GB; the one "
            f"that needs least, {least.params.factors}, needs {least.memory_bytes / 1e9:.1f} GB on each: take more "
            "devices, or a smaller batch_size"
        )
    return sorted(fitting, key=lambda one: (one.seconds, one.params.pipeline, one.params.tensor))


def explain(estimates: Sequence[Estimate], rows: int = 5) -> str:
    """Return the first layouts as a table, milliseconds by cause."""
    lines = [f"{'layout':44}{'ms':>9}{'compute':>9}{'bubble':>9}{'tensor':>9}{'pipeline':>9}{'data':>9}{'GB':>8}"]
    for one in estimates[:rows]:
        p = one.params
        name = f"data {p.data} x tensor {p.tensor} x pipeline {p.pipeline}, {p.microbatches} parts"
        name += ", sharded" if p.shard else ", recomputed" if p.recompute else ""
        parts = (one.seconds, one.compute, one.bubble, one.tensor, one.pipeline, one.data)
        lines.append(f"{name:44}" + "".join(f"{part * 1e3:9.3g}" for part in parts) + f"{one.memory_bytes / 1e9:8.2f}")
    return "\n".join(lines)


def _layouts(work: Workload, machine: Machine) -> Iterator[ParallelParams]:
    """Yield the layouts that a network can be cut into on all devices of a machine."""
    for tensor in _divisors(machine.devices):
        if work.heads % tensor or machine.per_node % tensor:
            continue
        for pipeline in _divisors(machine.devices // tensor):
            data = machine.devices // (tensor * pipeline)
            if pipeline > work.blocks:
                continue
            for micro in (1, 2, 4, 8, 16, 32):
                if micro * data > work.batch or (pipeline > 1 and micro < pipeline):
                    continue
                chosen = {"nodes": machine.nodes, "data": data, "tensor": tensor, "pipeline": pipeline}
                for more in ({}, {"recompute": True}, {"shard": True}):
                    if more.get("shard") and (tensor > 1 or pipeline > 1 or data == 1):
                        continue
                    yield ParallelParams.model_validate({**chosen, "microbatches": micro, **more})


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
