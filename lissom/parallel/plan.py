"""Cost model of parallel layouts: time and memory of a training step, and a proposal of the fastest layout that fits.

Time is the sum of compute, divided by all processes; the bubble of a pipeline, (p - 1) / m; four all-reduces of the
activations per tensor-parallel block; activations to the next stage and back; and one all-reduce of the gradients over
the replicas (Narayanan et al. 2021, arXiv:2104.04473, §3). Memory is weights, gradients and AdamW's moments, 16 bytes
per parameter, and the activations in flight. Imports no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lissom.errors import InputError
from lissom.models.sizes import Anatomy
from lissom.parallel.config import ParallelParams

_STATE_BYTES = 16
"""Bytes per trained parameter: value, gradient and two moments, in float32."""
_ACTIVATION_VALUES = 34
"""Values of a block that the backward pass needs, per token and channel (Korthikanti et al. 2022, arXiv:2205.05198)."""
_VALUE_BYTES = 4
_FLOPS = 6
"""Operations per parameter and token: two forward, four backward."""
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
    """Devices and their connections; `near` is within a node, `far` between nodes."""

    devices: int
    nodes: int
    memory_bytes: float
    """Memory of one device."""
    flops: float
    """Measured operations per second of one device."""
    near_bytes: float
    """Bandwidth of one device within a node, in bytes per second."""
    far_bytes: float
    """Bandwidth of one device between nodes, in bytes per second."""
    latency_seconds: float
    """Latency of one message."""

    @property
    def per_node(self) -> int:
        """Return the number of devices per node."""
        return self.devices // self.nodes


@dataclass(frozen=True)
class Estimate:
    """Estimated time of a step in a layout, in seconds by cause, and memory of the fullest device."""

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
    """Estimate time and memory of a step in a layout."""
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
    tensor_seconds = messages * (share * activation / speed + machine.latency_seconds) if tensor > 1 else 0.0
    across = machine.near_bytes if tensor * pipeline <= machine.per_node else machine.far_bytes
    pipeline_seconds = 2 * micro * (activation / across + machine.latency_seconds) if pipeline > 1 else 0.0
    parameters = (work.anatomy.total - work.anatomy.word_table) / (
        tensor * pipeline
    )  # the word table is frozen by default
    data_seconds = 0.0
    if data > 1:
        ring = machine.near_bytes if params.world <= machine.per_node else machine.far_bytes
        data_seconds = 2 * (data - 1) / data * parameters * _VALUE_BYTES / ring + machine.latency_seconds
        data_seconds *= 1.5 if params.shard else 1  # weights are gathered twice, gradients scattered once
    state = parameters * _STATE_BYTES / (data if params.shard else 1) + work.anatomy.word_table * _VALUE_BYTES / tensor
    if (
        params.shard or tensor * pipeline > 1
    ):  # between trainings every process has the whole network, to score and save
        state += work.anatomy.total * _VALUE_BYTES
    in_flight = min(pipeline, micro) if pipeline > 1 else 1
    values_per_token = 2 if params.recompute else _ACTIVATION_VALUES / tensor
    return Estimate(
        params=params,
        compute=compute,
        bubble=compute * (pipeline - 1) / micro,
        tensor=tensor_seconds,
        pipeline=pipeline_seconds,
        data=data_seconds,
        memory_bytes=state + in_flight * blocks * activation * values_per_token,
    )


def propose(work: Workload, machine: Machine) -> list[Estimate]:
    """Return estimates of the layouts that fit, the fastest first.

    Raises:
        InputError: none fits the devices' memory.
    """
    estimates = [estimate(work, machine, params) for params in _layouts(work, machine)]
    feasible = [item for item in estimates if item.memory_bytes <= _USABLE * machine.memory_bytes]
    if not feasible:
        least = min(estimates, key=lambda item: item.memory_bytes)
        raise InputError(
            f"parallel: auto: no layout fits {machine.devices} devices of {machine.memory_bytes / 1e9:.1f} GB; the one "
            f"that needs least, {least.params.factors}, needs {least.memory_bytes / 1e9:.1f} GB on each: take more "
            "devices, or a smaller batch_size"
        )
    return sorted(feasible, key=lambda item: (item.seconds, item.params.pipeline, item.params.tensor))


def explain(estimates: Sequence[Estimate], rows: int = 5) -> str:
    """Return the first layouts as a table, with milliseconds by cause."""
    lines = [f"{'layout':44}{'ms':>9}{'compute':>9}{'bubble':>9}{'tensor':>9}{'pipeline':>9}{'data':>9}{'GB':>8}"]
    for item in estimates[:rows]:
        p = item.params
        name = f"data {p.data} x tensor {p.tensor} x pipeline {p.pipeline}, {p.microbatches} parts"
        name += ", sharded" if p.shard else ", recomputed" if p.recompute else ""
        parts = (item.seconds, item.compute, item.bubble, item.tensor, item.pipeline, item.data)
        lines.append(f"{name:44}" + "".join(f"{part * 1e3:9.3g}" for part in parts) + f"{item.memory_bytes / 1e9:8.2f}")
    return "\n".join(lines)


def _layouts(work: Workload, machine: Machine) -> Iterator[ParallelParams]:
    """Yield the possible layouts of a network on all devices of a machine."""
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
                factors = {"nodes": machine.nodes, "data": data, "tensor": tensor, "pipeline": pipeline}
                for more in ({}, {"recompute": True}, {"shard": True}):
                    if more.get("shard") and (tensor > 1 or pipeline > 1 or data == 1):
                        continue
                    yield ParallelParams.model_validate({**factors, "microbatches": micro, **more})


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
