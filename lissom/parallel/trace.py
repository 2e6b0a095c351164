"""torch's pipeline stage with a trace of its operations, and with recomputation as a separate operation."""

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
        """Record the start of an operation; return its time."""
        if self.watch is not None:
            self.watch.working(f"{kind} of micro-batch {microbatch + 1} on stage {stage + 1}")
        return time.monotonic()

    def end(self, kind: Kind, microbatch: int, stage: int, device: int, start: float) -> None:
        """Record the end of an operation, after which this process may wait for another."""
        self.events.append(Event(Operation(kind, microbatch + 1, stage), device, start, time.monotonic()))
        if self.watch is not None:
            self.watch.waiting(f"other stages, after {kind} of micro-batch {microbatch + 1} on stage {stage + 1}")


class TracedStage(PipelineStage):
    """A pipeline stage that records its operations in a trace.

    With `recompute`, a forward pass stores only its input and the generator's state, and `recompute_one_chunk` repeats
    it, with the same dropout, before the backward pass. `pace` is called before the end of an operation; rehearsals
    sleep in it.
    """

    def __init__(
        self,
        *arguments: Any,
        trace: Trace,
        recompute: bool = False,
        pace: Callable[[Kind], None] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(*arguments, **keywords)
        self._trace, self._recompute, self._pace = trace, recompute, pace
        self._observers = observers_of(self.submod)
        self._saved_inputs: dict[int, tuple[tuple[torch.Tensor, ...], tuple[Any, ...], dict[str, Any] | None]] = {}

    def _compute_outputs(self, *args: Any, module: torch.nn.Module, **kwargs: Any) -> Any:
        """Run the placeholder micro-batch from which torch infers shapes, with observers disabled."""
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
        start = self._trace.begin("F", fwd_chunk_id, self.stage_index)
        if self._recompute:
            self._saved_inputs[fwd_chunk_id] = (random_state(), args, kwargs)
        with torch.no_grad() if self._recompute else nullcontext():
            output = super().forward_one_chunk(fwd_chunk_id, args, kwargs, save_forward_output)
        self._end("F", fwd_chunk_id, start)
        return output

    def recompute_one_chunk(self, chunk: int) -> None:
        """Repeat the forward pass of a micro-batch and keep its activations."""
        start = self._trace.begin("R", chunk, self.stage_index)
        state, args, kwargs = self._saved_inputs.pop(chunk)
        now = random_state()
        set_random_state(state)
        with observers_disabled(self._observers):
            super().forward_one_chunk(chunk, args, kwargs, save_forward_output=False)
        set_random_state(now)
        self._end("R", chunk, start)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """Run the backward pass of a micro-batch, or only the part for gradients of inputs."""
        kind: Kind = "B" if full_backward else "b"
        start = self._trace.begin(kind, bwd_chunk_id, self.stage_index)
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        self._end(kind, bwd_chunk_id, start)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """Compute the gradients of weights."""
        start = self._trace.begin("w", bwd_chunk_id, self.stage_index)
        super().backward_weight_one_chunk(bwd_chunk_id, last_backward)
        self._end("w", bwd_chunk_id, start)

    def _end(self, kind: Kind, chunk: int, start: float) -> None:
        if self._pace is not None:
            self._pace(kind)
        self._trace.end(kind, chunk, self.stage_index, self.group_rank, start)
