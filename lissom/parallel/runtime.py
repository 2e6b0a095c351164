"""Schedules for torch's pipeline runtime: torch's own, and Varuna's static schedule, which torch lacks.

Varuna: Athlur et al. 2022, arXiv:2111.04007. The order of work is that of `lissom.parallel.schedules`; the runtime adds
the transfers. Since the runtime has no action for recomputation, R is registered as a custom function for UNSHARD,
which is not used otherwise. The backward pass is split as in the paper, input gradients first.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.distributed.pipelining.schedules import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FORWARD,
    UNSHARD,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    _Action,
    _PipelineContext,
    _PipelineScheduleRuntime,
)

from lissom.errors import InputError
from lissom.parallel.schedules import Operation, make_schedule
from lissom.parallel.trace import TracedStage

RECOMPUTING = ("varuna", "varuna_eager")
"""Schedules in which recomputation is an action of its own."""

_WORDS = {"F": FORWARD, "b": BACKWARD_INPUT, "w": BACKWARD_WEIGHT, "R": UNSHARD}


def make_runtime(name: str, stages: list[TracedStage], microbatches: int, loss: Callable[[Any, Tensor], Tensor]) -> Any:
    """Return torch's schedule for the stages of this process.

    Args:
        name: as in `ParallelParams.schedule`.
        stages: stages of this process.
        microbatches: micro-batches per step.
        loss: weighted loss of a micro-batch's output and target; gradients are summed without further scaling.
    """
    all_stages: list[Any] = list(stages)
    match name:
        case "gpipe":
            return ScheduleGPipe(all_stages[0], microbatches, loss, scale_grads=False)
        case "1f1b":
            return Schedule1F1B(all_stages[0], microbatches, loss, scale_grads=False)
        case "interleaved_1f1b":
            return ScheduleInterleaved1F1B(all_stages, microbatches, loss, scale_grads=False)
        case "zero_bubble":
            return ScheduleInterleavedZeroBubble(all_stages, microbatches, loss, scale_grads=False)
        case "varuna" | "varuna_eager":
            return _varuna(name, stages, microbatches, loss)
    raise InputError(f"schedule {name!r} cannot be run")


def _varuna(name: str, stages: list[TracedStage], microbatches: int, loss: Callable[[Any, Tensor], Tensor]) -> Any:
    runtime: Any = _PipelineScheduleRuntime(list(stages), microbatches, loss, scale_grads=False)  # type: ignore[no-untyped-call]
    schedule = make_schedule(name, stages[0].num_stages, microbatches)
    table = {
        rank: [_action(operation) for operation in order if operation.kind != "R"]
        for rank, order in enumerate(schedule.devices)
    }
    runtime.pipeline_order = table
    runtime._prepare_schedule_with_comms(table)
    for rank, order in enumerate(schedule.devices):
        actions = runtime.pipeline_order_with_comms[rank]
        runtime.pipeline_order_with_comms[rank] = _with_recomputation(actions, order)
    by_index = {stage.stage_index: stage for stage in stages}

    def recompute(action: _Action, _: _PipelineContext) -> None:
        if action.microbatch_index is None:
            return
        if not schedule.eager_recomputation:  # the gradient arrives when the next stage has done its part of it
            key = (action.stage_index, action.microbatch_index)
            for work in runtime.bwd_recv_ops[key]:
                work.wait()
            runtime.bwd_recv_ops[key] = []  # to wait again would wait for another message
        by_index[action.stage_index].recompute_one_chunk(action.microbatch_index)

    runtime.register_custom_function(UNSHARD, recompute)
    return runtime


def _with_recomputation(actions: list[_Action], order: tuple[Operation, ...]) -> list[_Action]:
    """Insert every R before the backward pass that it precedes in the order of work."""
    again = {
        _action(successor): _action(operation) for operation, successor in pairwise(order) if operation.kind == "R"
    }
    assert all(action.computation_type is BACKWARD_INPUT for action in again)
    return [item for action in actions for item in ([again[action]] if action in again else []) + [action]]


def _action(operation: Operation) -> _Action:
    return _Action(operation.stage, _WORDS[operation.kind], operation.microbatch - 1)
