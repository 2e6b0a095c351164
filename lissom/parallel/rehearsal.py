"""Measuring a schedule in torch's runtime, transfers included, with stages that sleep for a given time.

There is one process per device, as in training (`lissom.parallel.pipeline`), but the stages sleep instead of computing,
so that a machine with two cores can simulate eight devices. Started by `lissom schedule --measure`.
"""

import json
import sys
import time
from pathlib import Path

from lissom.artifacts import read_json, write_json
from lissom.errors import InputError
from lissom.parallel.config import ParallelParams
from lissom.parallel.launch import launch
from lissom.parallel.schedules import Kind, Operation, Schedule
from lissom.parallel.simulator import Costs, Event, Timeline
from lissom.storage import scratch_folder

_WARM_UPS = 2


def rehearse(schedule: Schedule, costs: Costs, unit_seconds: float) -> Timeline:
    """Run a schedule in processes of this machine; return the measured timeline, in the units of the costs.

    Args:
        schedule: any schedule but GPipe with recomputation.
        costs: durations of the stages' operations.
        unit_seconds: length of one unit; well above the milliseconds that a transfer takes.

    Raises:
        InputError: torch's runtime does not support the schedule.
    """
    if schedule.name == "gpipe" and any(operation.kind == "R" for order in schedule.devices for operation in order):
        raise InputError(
            "gpipe with recomputation is drawn, and not measured: in training the backward pass contains it"
        )
    devices = len(schedule.devices)
    more = {"chunks": schedule.chunks} if schedule.chunks > 1 else {}
    params = ParallelParams.model_validate(
        {"pipeline": devices, "microbatches": schedule.microbatches, "schedule": schedule.name, "restarts": 0, **more}
    )
    spec = {"params": params.model_dump(exclude_unset=True), "costs": vars(costs), "unit": unit_seconds}
    with scratch_folder() as folder:
        target = folder / "events.json"
        launch("lissom.parallel.rehearsal", [json.dumps(spec), str(target)], params)
        events = [
            Event(Operation(*operation), device, start, end) for operation, device, start, end in read_json(target)
        ]
    return Timeline(schedule, costs, tuple(events))


def _main(spec: str, target: Path) -> None:
    import torch
    from torch import nn

    from lissom.parallel.runtime import RECOMPUTING, make_runtime
    from lissom.parallel.trace import Trace, TracedStage
    from lissom.parallel.world import join

    values = json.loads(spec)
    params, costs, unit = ParallelParams.model_validate(values["params"]), Costs(**values["costs"]), values["unit"]
    chunks = params.stages // params.pipeline
    half = costs.backward / 2
    durations: dict[Kind, float] = {"F": costs.forward, "R": costs.recompute, "B": costs.backward, "b": half, "w": half}
    seconds = {kind: cost * unit / chunks for kind, cost in durations.items()}
    with join(params) as world:
        layout = world.layout()
        place, trace = layout.place("pipeline"), Trace()
        stages = [
            TracedStage(
                nn.Linear(4, 4), stage, params.stages, torch.device("cpu"), group=layout.group("pipeline"), trace=trace,
                recompute=params.schedule in RECOMPUTING and stage + 1 < params.stages,
                pace=lambda kind: time.sleep(seconds[kind]),
            )
            for stage in range(place, params.stages, params.pipeline)
        ]  # fmt: skip
        runtime = make_runtime(
            params.schedule,
            stages,
            params.microbatches,
            lambda output, target: (output.sum(-1) - target).square().sum(),
        )
        batch = torch.ones(params.microbatches, 4)
        for _ in range(_WARM_UPS + 1):
            trace.events.clear()
            world.any(False)  # start together
            runtime.step(
                *([batch] if place == 0 else []), target=batch[:, 0] if place + 1 == params.pipeline else None,
                return_outputs=False,
            )  # fmt: skip
        traces = world.gather(trace.events)
        if world.is_main:
            begin = min(event.start for events in traces for event in events)
            rows = [
                (
                    (event.operation.kind, event.operation.microbatch, event.operation.stage), event.device,
                    (event.start - begin) / unit, (event.end - begin) / unit,
                )
                for events in traces for event in events
            ]  # fmt: skip
            write_json(target, rows)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
