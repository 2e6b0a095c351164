"""Pipeline schedules: the order of every device's operations on its micro-batches. Imports no torch.

A schedule is a list of operations per device; their times follow from their dependencies
(`lissom.parallel.simulator`). Micro-batches are numbered from 1, stages and devices from 0. Sources: GPipe (Huang et
al. 2019, arXiv:1811.06965), 1F1B and interleaved 1F1B (Narayanan et al. 2021, arXiv:2104.04473), Varuna (Athlur et
al. 2022, arXiv:2111.04007, its released generator).
"""

from dataclasses import dataclass
from typing import Literal

from lissom.errors import InputError

Kind = Literal["F", "R", "B", "b", "w"]
"""Forward, recomputation, backward; Varuna splits the backward in two: gradients of inputs (b), of weights (w)."""

NAMES = ("gpipe", "1f1b", "interleaved_1f1b", "varuna", "varuna_eager")

SPLITTING = ("zero_bubble", "varuna", "varuna_eager")
"""Schedules that compute gradients of inputs and of weights at different times."""


@dataclass(frozen=True)
class Operation:
    """One operation on a micro-batch."""

    kind: Kind
    microbatch: int
    stage: int
    """Virtual stage: chunk c of device s is stage c p + s."""


@dataclass(frozen=True)
class Schedule:
    """The order of work on every device."""

    name: str
    devices: tuple[tuple[Operation, ...], ...]
    microbatches: int
    chunks: int = 1
    """Pieces of the model on every device."""
    eager_recomputation: bool = True
    """Whether recomputation may start before the gradient has arrived."""

    @property
    def stages(self) -> int:
        """Return the number of virtual stages."""
        return len(self.devices) * self.chunks


def make_schedule(
    name: str, devices: int, microbatches: int, *, chunks: int = 2, recompute: bool = False, eager: bool = True
) -> Schedule:
    """Return a schedule by name.

    Args:
        name: one of `NAMES`.
        devices: p, at least 1.
        microbatches: m, at least 1.
        chunks: v, pieces of the model per device, for `interleaved_1f1b`.
        recompute: for `gpipe`: recompute activations, but those of the last micro-batch; `varuna` always does, and
            so does `varuna_eager`, in the same order, but without waiting for the next stage's backward pass: a
            stage holds one recomputed set either way, and is done sooner.
        eager: for `gpipe`: recompute while waiting for the gradient.

    Raises:
        InputError: the name is not known, or the numbers do not fit the schedule.
    """
    if devices < 1 or microbatches < 1 or chunks < 1:
        raise InputError(f"stages {devices}, micro-batches {microbatches}, chunks {chunks}: all must be at least 1")
    if recompute and name not in ("gpipe", "varuna", "varuna_eager"):
        raise InputError(f"schedule {name}: recomputation is drawn for gpipe and varuna only")
    match name:
        case "gpipe":
            return _gpipe(devices, microbatches, recompute, eager)
        case "1f1b":
            return _one_forward_one_backward("1f1b", devices, microbatches, 1)
        case "interleaved_1f1b":
            if microbatches % devices:
                raise InputError(
                    f"interleaved_1f1b: {microbatches} micro-batches are not a multiple of {devices} devices; "
                    f"take {microbatches // devices * devices or devices} or {-(-microbatches // devices) * devices}"
                )
            return _one_forward_one_backward(name, devices, microbatches, chunks)
        case "varuna" | "varuna_eager":
            return _varuna(name, devices, microbatches)
    raise InputError(f"schedule {name!r} is not known; allowed: {', '.join(NAMES)}")


def _gpipe(devices: int, microbatches: int, recompute: bool, eager: bool) -> Schedule:
    orders = []
    for stage in range(devices):
        order = [Operation("F", number, stage) for number in range(1, microbatches + 1)]
        for number in range(microbatches, 0, -1):
            if recompute and number < microbatches:
                order.append(Operation("R", number, stage))
            order.append(Operation("B", number, stage))
        orders.append(tuple(order))
    return Schedule("gpipe", tuple(orders), microbatches, eager_recomputation=eager)


def _one_forward_one_backward(name: str, devices: int, microbatches: int, chunks: int) -> Schedule:
    work = microbatches * chunks
    orders = []
    for device in range(devices):
        forward = [_nth("F", number, device, devices, chunks) for number in range(work)]
        backward = [_nth("B", number, device, devices, chunks) for number in range(work)]
        ahead = devices - device - 1
        warm_up = min(work, ahead if chunks == 1 else 2 * ahead + (chunks - 1) * devices)
        order = forward[:warm_up]
        for number in range(work - warm_up):
            order += [forward[warm_up + number], backward[number]]
        orders.append(tuple(order + backward[work - warm_up :]))
    return Schedule(name, tuple(orders), microbatches, chunks)


def _nth(kind: Kind, number: int, device: int, devices: int, chunks: int) -> Operation:
    """Return a device's n-th forward or backward: groups of p micro-batches pass through all chunks in turn."""
    if chunks == 1:
        return Operation(kind, number + 1, device)
    group, within = divmod(number, devices * chunks)
    chunk, offset = divmod(within, devices)
    if kind == "B":
        chunk = chunks - 1 - chunk
    return Operation(kind, group * devices + offset + 1, chunk * devices + device)


def _varuna(name: str, devices: int, microbatches: int) -> Schedule:
    """Simulate the released generator in ticks: each stage runs a ready operation, with priority w, b, R, F."""
    ready: list[dict[Kind, list[int]]] = [{"w": [], "b": [], "R": [], "F": []} for _ in range(devices)]
    ready[0]["F"] = list(range(1, microbatches + 1))
    orders: list[list[Operation]] = [[] for _ in range(devices)]
    while any(queue for stage in ready for queue in stage.values()):
        operations = []
        for stage, queues in enumerate(ready):
            kind = next((kind for kind, queue in queues.items() if queue), None)
            if kind is not None:
                operations.append(Operation(kind, queues[kind].pop(0), stage))
        for operation in operations:
            orders[operation.stage].append(operation)
            match operation.kind:
                case "F":
                    last = operation.stage == devices - 1
                    ready[operation.stage if last else operation.stage + 1]["b" if last else "F"].append(
                        operation.microbatch
                    )
                case "R":
                    ready[operation.stage]["b"].append(operation.microbatch)
                case "b":
                    ready[operation.stage]["w"].append(operation.microbatch)
                    if operation.stage:
                        ready[operation.stage - 1]["R"].append(operation.microbatch)
    return Schedule(name, tuple(map(tuple, orders)), microbatches, eager_recomputation=name == "varuna_eager")
