"""Simulation of a schedule: the times of its operations, its length, and its peak memory.

An operation starts as soon as its device is free and its dependencies are done: for a forward that of the previous
stage, for a backward that of the next stage and its own activations. Transfers take no time.
"""

from dataclasses import dataclass

from lissom.parallel.schedules import Kind, Operation, Schedule


@dataclass(frozen=True)
class Costs:
    """Time of one micro-batch on one device, in any unit; chunks share it."""

    forward: float = 1.0
    backward: float = 2.0
    recompute: float = 1.0


@dataclass(frozen=True)
class Event:
    """An operation with its start and end."""

    operation: Operation
    device: int
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The events of all operations of a schedule."""

    schedule: Schedule
    costs: Costs
    events: tuple[Event, ...]

    @property
    def makespan(self) -> float:
        """Return the time from the first start to the last end."""
        return max(event.end for event in self.events)

    @property
    def bubble(self) -> float:
        """Return the idle share of the devices' time; recomputation counts as work."""
        busy = sum(event.end - event.start for event in self.events)
        return 1 - busy / (self.makespan * len(self.schedule.devices))

    def durations(self) -> dict[Kind, float]:
        """Return the durations of the schedule's kinds of operations; the costs are divided by the chunks."""
        costs, chunks = self.costs, self.schedule.chunks
        times: dict[Kind, float] = {
            "F": costs.forward / chunks,
            "R": costs.recompute / chunks,
            "B": costs.backward / chunks,
            "b": costs.backward / chunks / 2,
            "w": costs.backward / chunks / 2,
        }
        kinds = {operation.kind for order in self.schedule.devices for operation in order}
        return {kind: time for kind, time in times.items() if kind in kinds}

    def peak_in_flight(self) -> tuple[int, ...]:
        """Return, for every device, the largest number of forwards (of any chunk) whose backward is not done."""
        return self._peaks(("F",), ("B", "b"))

    def peak_activations(self) -> tuple[int, ...]:
        """Return, for every device, the largest number of full sets of activations held at once.

        A set is stored by a forward that is not recomputed, and by a recomputation.
        """
        recomputations = {
            (event.operation.microbatch, event.operation.stage) for event in self.events if event.operation.kind == "R"
        }
        return self._peaks(("F", "R"), ("B", "b"), recomputations)

    def _peaks(
        self, up: tuple[str, ...], down: tuple[str, ...], skip: set[tuple[int, int]] | None = None
    ) -> tuple[int, ...]:
        peaks = [0] * len(self.schedule.devices)
        counts = [0] * len(peaks)
        for event in sorted(self.events, key=lambda event: (event.start, event.end)):
            operation = event.operation
            if operation.kind == "F" and skip and (operation.microbatch, operation.stage) in skip:
                continue
            if operation.kind in up:
                counts[event.device] += 1
                peaks[event.device] = max(peaks[event.device], counts[event.device])
            elif operation.kind in down:
                counts[event.device] -= 1
        return tuple(peaks)


def simulate(schedule: Schedule, costs: Costs = Costs()) -> Timeline:
    """Return the timeline of a schedule.

    Raises:
        ValueError: the dependencies are circular.
    """
    durations = Timeline(schedule, costs, ()).durations()
    recomputations = {operation for order in schedule.devices for operation in order if operation.kind == "R"}
    ends: dict[Operation, float] = {}
    free = [0.0] * len(schedule.devices)
    position = [0] * len(schedule.devices)
    events: list[Event] = []
    total = sum(map(len, schedule.devices))
    while len(events) < total:
        before = len(events)
        for device, order in enumerate(schedule.devices):
            while position[device] < len(order):
                operation = order[position[device]]
                waits = _waits_for(operation, schedule, recomputations)
                if any(dependency not in ends for dependency in waits):
                    break
                start = max([free[device], *(ends[dependency] for dependency in waits)])
                ends[operation] = free[device] = start + durations[operation.kind]
                events.append(Event(operation, device, start, ends[operation]))
                position[device] += 1
        if len(events) == before:
            stuck = [
                order[position[device]]
                for device, order in enumerate(schedule.devices)
                if position[device] < len(order)
            ]
            raise ValueError(f"schedule {schedule.name}: these wait for each other: {stuck}")
    return Timeline(schedule, costs, tuple(events))


def _waits_for(operation: Operation, schedule: Schedule, recomputations: set[Operation]) -> list[Operation]:
    number, stage = operation.microbatch, operation.stage
    split = any(operation.kind == "b" for operation in schedule.devices[0])
    behind = [Operation("b" if split else "B", number, stage + 1)] if stage + 1 < schedule.stages else []
    match operation.kind:
        case "F":
            return [Operation("F", number, stage - 1)] if stage else []
        case "R":
            forward = [Operation("F", number, stage)]
            return forward if schedule.eager_recomputation else forward + behind
        case "B" | "b":
            again = Operation("R", number, stage)
            return [again if again in recomputations else Operation("F", number, stage), *behind]
        case "w":
            return [Operation("b", number, stage)]
