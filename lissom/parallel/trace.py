"""When did what really happen? torch's pipeline stage, with a clock, and with recomputation as an action of its own."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.pipelining import PipelineStage

from lissom.models.layers import observers_disabled, observers_of
from lissom.parallel.random_state import random_state, set_random_state
from lissom.parallel.schedules import Kind, Operation
from lissom.parallel.simulator import Event
from lissom.parallel.watch import Watch


@dataclass
class Trace:
    """The events of this process's last step, in seconds of the machine's monotonic clock."""

    watch: Watch | None = None
    events: list[Event] = field(default_factory=list)

    def begin(self, kind: Kind, microbatch: int, stage: int) -> float:
        """Note that an action begins; return when."""
        if self.watch is not None:
            self.watch.working(f"{kind} of micro-batch {microbatch + 1} on stage {stage + 1}")
        return time.monotonic()

    def end(self, kind: Kind, microbatch: int, stage: int, device: int, started: float) -> None:
        """Note that it has ended, and that this process may now wait for another."""
        self.events.append(Event(Operation(kind, microbatch + 1, stage), device, started, time.monotonic()))
        if self.watch is not None:
            self.watch.waiting(f"other stages, after {kind} of micro-batch {microbatch + 1} on stage {stage + 1}")


class TracedStage(PipelineStage):
    """A stage that tells a trace what it does.

    With `recompute`, a forward pass keeps its input and the state of the generator only, and `recompute_one_chunk` runs
    it again, with the same dropout, before the backward pass. `pace` is called before an action ends: a rehearsal waits
    in it.
    """

    def __init__(
        self,
        *arguments: Any,
        trace: Trace,
        recompute: bool = False,
        pace: Callable[[Kind], None] | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._trace, self._recompute, self._pace = trace, recompute, pace
        self._observers = observers_of(self.submod)
        self._again: dict[int, tuple[tuple[torch.Tensor, ...], tuple[Any, ...], dict[str, Any] | None]] = {}

    def _compute_outputs(self, *args: Any, module: torch.nn.Module, **kwargs: Any) -> Any:
        """Run a micro-batch of no meaning, from which torch learns shapes: nobody is to observe its values."""
        with observers_disabled(observers_of(module)):
            return super()._compute_outputs(*args, module=module, **kwargs)

    def forward_one_chunk(
        self,
        fwd_chunk_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        save_forward_output: bool = True,
    ) -> Any:
        """Run a micro-batch forward."""
        started = self._trace.begin("F", fwd_chunk_id, self.stage_index)
        if self._recompute:
            self._again[fwd_chunk_id] = (random_state(), args, kwargs)
        with torch.no_grad() if self._recompute else nullcontext():
            output = super().forward_one_chunk(fwd_chunk_id, args, kwargs, save_forward_output)
        self._end("F", fwd_chunk_id, started)
        return output

    def recompute_one_chunk(self, chunk: int) -> None:
        """Run a micro-batch forward again, keeping the activations this time."""
        started = self._trace.begin("R", chunk, self.stage_index)
        state, args, kwargs = self._again.pop(chunk)
        now = random_state()
        set_random_state(state)
        with observers_disabled(self._observers):
            super().forward_one_chunk(chunk, args, kwargs, save_forward_output=False)
        set_random_state(now)
        self._end("R", chunk, started)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """Run a micro-batch backward, or the part of it that others wait for."""
        kind: Kind = "B" if full_backward else "b"
        started = self._trace.begin(kind, bwd_chunk_id, self.stage_index)
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        self._end(kind, bwd_chunk_id, started)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """Compute the gradients of weights."""
        started = self._trace.begin("w", bwd_chunk_id, self.stage_index)
        super().backward_weight_one_chunk(bwd_chunk_id, last_backward)
        self._end("w", bwd_chunk_id, started)

    def _end(self, kind: Kind, chunk: int, started: float) -> None:
        if self._pace is not None:
            self._pace(kind)
        self._trace.end(kind, chunk, self.stage_index, self.group_rank, started)
