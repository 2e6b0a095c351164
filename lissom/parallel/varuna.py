"""Varuna's static schedule, carried out by torch's schedule runtime.

Athlur et al. 2022, arXiv:2111.04007. The order of work is that of `lissom.parallel.schedules`; the runtime adds the
transfers. It has no word for recomputation: R goes in under the name of UNSHARD, which pipelines of ours have no other
use for, as a custom function. The backward pass is split as in the paper, input gradients first.
"""

from typing import Any

from torch.distributed.pipelining.schedules import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FORWARD,
    UNSHARD,
    _Action,
    _PipelineContext,
    _PipelineScheduleRuntime,
)

from lissom.parallel.schedules import Operation, make_schedule
from lissom.parallel.trace import TracedStage

_WORDS = {"F": FORWARD, "b": BACKWARD_INPUT, "w": BACKWARD_WEIGHT, "R": UNSHARD}


def make_varuna(stages: list[TracedStage], n_microbatches: int, **settings: Any) -> Any:
    """Return torch's runtime with Varuna's table; arguments as for torch's own schedules."""
    runtime: Any = _PipelineScheduleRuntime(list(stages), n_microbatches, **settings)  # type: ignore[no-untyped-call]
    orders = make_schedule("varuna", stages[0].num_stages, n_microbatches).devices
    table = {rank: [_action(made) for made in order if made.kind != "R"] for rank, order in enumerate(orders)}
    runtime.pipeline_order = table
    runtime._prepare_schedule_with_comms(table)
    for rank, order in enumerate(orders):
        runtime.pipeline_order_with_comms[rank] = _with_recomputation(runtime.pipeline_order_with_comms[rank], order)
    by_index = {stage.stage_index: stage for stage in stages}

    def recompute(action: _Action, _: _PipelineContext) -> None:
        if action.microbatch_index is not None:
            by_index[action.stage_index].recompute_one_chunk(action.microbatch_index)

    runtime.register_custom_function(UNSHARD, recompute)
    return runtime


def _with_recomputation(actions: list[_Action], order: tuple[Operation, ...]) -> list[_Action]:
    """Put every R behind the operation that it follows in the order of work."""
    follows: dict[_Action, list[_Action]] = {}
    last = None
    for made in order:
        if made.kind == "R":
            assert last is not None, "a stage forwards before it recomputes"
            follows.setdefault(last, []).append(_action(made))
        else:
            last = _action(made)
    return [one for action in actions for one in (action, *follows.get(action, ()))]


def _action(made: Operation) -> _Action:
    return _Action(made.stage, _WORDS[made.kind], made.microbatch - 1)
