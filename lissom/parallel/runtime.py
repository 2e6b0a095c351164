"""Schedules as torch's runtime carries them out: its own, and Varuna's static one, which it lacks.

Varuna: Athlur et al. 2022, arXiv:2111.04007. The order of work is that of `lissom.parallel.schedules`; the runtime adds
the transfers. It has no word for recomputation: R goes in under the name of UNSHARD, which pipelines of ours have no
other use for, as a custom function. The backward pass is split as in the paper, input gradients first.
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
    """Return torch's schedule of a name for the stages of this process.

    Args:
        name: as in `ParallelParams.schedule`.
        stages: this process's.
        microbatches: of one step.
        loss: of a micro-batch's output and target, already weighted: the gradients are added up as they are.
    """
    made: list[Any] = list(stages)
    match name:
        case "gpipe":
            return ScheduleGPipe(made[0], microbatches, loss, scale_grads=False)
        case "1f1b":
            return Schedule1F1B(made[0], microbatches, loss, scale_grads=False)
        case "interleaved_1f1b":
            return ScheduleInterleaved1F1B(made, microbatches, loss, scale_grads=False)
        case "zero_bubble":
            return ScheduleInterleavedZeroBubble(made, microbatches, loss, scale_grads=False)
        case "varuna" | "varuna_eager":
            return _varuna(name, stages, microbatches, loss)
    raise InputError(f"schedule {name!r} cannot be run")


def _varuna(name: str, stages: list[TracedStage], microbatches: int, loss: Callable[[Any, Tensor], Tensor]) -> Any:
    runtime: Any = _PipelineScheduleRuntime(list(stages), microbatches, loss, scale_grads=False)  # type: ignore[no-untyped-call]
    schedule = make_schedule(name, stages[0].num_stages, microbatches)
    table = {rank: [_action(made) for made in order if made.kind != "R"] for rank, order in enumerate(schedule.devices)}
    runtime.pipeline_order = table
    runtime._prepare_schedule_with_comms(table)
    for rank, order in enumerate(schedule.devices):
        lowered = runtime.pipeline_order_with_comms[rank]
        runtime.pipeline_order_with_comms[rank] = _with_recomputation(lowered, order)
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
    """Put every R before the backward pass that needs it, which follows it in the order of work as well."""
    again = {_action(next_one): _action(made) for made, next_one in pairwise(order) if made.kind == "R"}
    assert all(action.computation_type is BACKWARD_INPUT for action in again)
    return [one for action in actions for one in ([again[action]] if action in again else []) + [action]]


def _action(made: Operation) -> _Action:
    return _Action(made.stage, _WORDS[made.kind], made.microbatch - 1)
