"""When does everything in a schedule happen, how long does it take, how much waits in memory?

An operation starts as soon as its device is free and what it waits for is done: a forward for that of the stage before,
a backward for the gradient of the stage behind and for its own activations. Transfers take no time.
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
    """An operation in time."""

    operation: Operation
    device: int
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """All operations of a schedule in time."""

    schedule: Schedule
    costs: Costs
    events: tuple[Event, ...]

    @property
    def makespan(self) -> float:
        """Return the time from the first start to the last end."""
        return max(event.end for event in self.events)

    @property
    def bubble(self) -> float:
        """Return the share of all devices' time in which they wait; recomputing counts as work."""
        busy = sum(event.end - event.start for event in self.events)
        return 1 - busy / (self.makespan * len(self.schedule.devices))

    def durations(self) -> dict[Kind, float]:
        """Return how long every kind of operation takes that the schedule has; chunks share a device's time."""
        costs, chunks = self.costs, self.schedule.chunks
        times: dict[Kind, float] = {
            "F": costs.forward / chunks,
            "R": costs.recompute / chunks,
            "B": costs.backward / chunks,
            "b": costs.backward / chunks / 2,
            "w": costs.backward / chunks / 2,
        }
        kinds = {made.kind for order in self.schedule.devices for made in order}
        return {kind: time for kind, time in times.items() if kind in kinds}

    def peak_in_flight(self) -> tuple[int, ...]:
        """Return, for every device, the most forwards (of any chunk) whose backward is not done."""
        return self._peaks(("F",), ("B", "b"))

    def peak_activations(self) -> tuple[int, ...]:
        """Return, for every device, the most full sets of activations held at once.

        Without recomputation a forward leaves them; with it, only the recomputation does, and those forwards that are
        never recomputed.
        """
        recomputed = {
            (event.operation.microbatch, event.operation.stage) for event in self.events if event.operation.kind == "R"
        }
        return self._peaks(("F", "R"), ("B", "b"), recomputed)

    def _peaks(
        self, up: tuple[str, ...], down: tuple[str, ...], dropped: set[tuple[int, int]] | None = None
    ) -> tuple[int, ...]:
        peaks = [0] * len(self.schedule.devices)
        held = [0] * len(peaks)
        for event in sorted(self.events, key=lambda one: (one.start, one.end)):
            made = event.operation
            if made.kind == "F" and dropped and (made.microbatch, made.stage) in dropped:
                continue
            if made.kind in up:
                held[event.device] += 1
                peaks[event.device] = max(peaks[event.device], held[event.device])
            elif made.kind in down:
                held[event.device] -= 1
        return tuple(peaks)


def simulate(schedule: Schedule, costs: Costs = Costs()) -> Timeline:
    """Return when every operation of a schedule happens.

    Raises:
        ValueError: the orders wait for each other in a circle.
    """
    durations = Timeline(schedule, costs, ()).durations()
    recomputed = {operation for order in schedule.devices for operation in order if operation.kind == "R"}
    ends: dict[Operation, float] = {}
    free = [0.0] * len(schedule.devices)
    position = [0] * len(schedule.devices)
    events: list[Event] = []
    total = sum(map(len, schedule.devices))
    while len(events) < total:
        before = len(events)
        for device, order in enumerate(schedule.devices):
            while position[device] < len(order):
                made = order[position[device]]
                waits = _waits_for(made, schedule, recomputed)
                if any(one not in ends for one in waits):
                    break
                start = max([free[device], *(ends[one] for one in waits)])
                ends[made] = free[device] = start + durations[made.kind]
                events.append(Event(made, device, start, ends[made]))
                position[device] += 1
        if len(events) == before:
            stuck = [
                order[position[device]]
                for device, order in enumerate(schedule.devices)
                if position[device] < len(order)
            ]
            raise ValueError(f"schedule {schedule.name}: these wait for each other: {stuck}")
    return Timeline(schedule, costs, tuple(events))


def _waits_for(made: Operation, schedule: Schedule, recomputed: set[Operation]) -> list[Operation]:
    number, stage = made.microbatch, made.stage
    split = any(one.kind == "b" for one in schedule.devices[0])
    behind = [Operation("b" if split else "B", number, stage + 1)] if stage + 1 < schedule.stages else []
    match made.kind:
        case "F":
            return [Operation("F", number, stage - 1)] if stage else []
        case "R":
            own = [Operation("F", number, stage)]
            return own if schedule.eager_recomputation else own + behind
        case "B" | "b":
            again = Operation("R", number, stage)
            return [again if again in recomputed else Operation("F", number, stage), *behind]
        case "w":
            return [Operation("b", number, stage)]
