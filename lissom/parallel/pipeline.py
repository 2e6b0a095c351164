"""Pipeline parallelism: every process holds a stretch of blocks, and micro-batches go from one to the next.

torch's stages and schedule runtime do the work; `varuna`, which torch lacks, is handed to that runtime as a table
(`lissom.parallel.runtime`). Every stage is given the tokens, so that only hidden states travel. A loss that looks at
logits alone is computed on the last stage by a stand-in that already knows the answer. Micro-batches have one shape: a
batch is filled up with rows that count for nothing, and padded to a multiple of 8 tokens: each shape has buffers of its
own.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.models.layers import observers_of, set_real_tokens
from lissom.models.together import Together, members_of
from lissom.parallel.gradients import clip, complete, sum_over, whole
from lissom.parallel.parts import Loss, weighted
from lissom.parallel.replicas import keep_activations, recompute_blocks, update_ranges
from lissom.parallel.runtime import RECOMPUTING, make_runtime
from lissom.parallel.stages import Stretch, cut_blocks, stage_of
from lissom.parallel.trace import Trace, TracedStage
from lissom.parallel.world import Layout

_LENGTH_MULTIPLE = 8


class Pipeline:
    """This process's stages of a pipeline; arguments as for `Replicas`."""

    def __init__(
        self,
        network: nn.Module,
        module: nn.Module,
        loss: Loss,
        data: Encoded,
        pad: int,
        precision: torch.dtype | None,
        layout: Layout,
    ) -> None:
        self.module = module
        self.layout = layout
        self._network, self._loss, self._precision = network, loss, precision
        self._data, self._pad = data, pad
        self._device = next(module.parameters()).device
        self._observers = observers_of(module)
        params, place = layout.params, layout.place("pipeline")
        self._cuts = cut_blocks(module, params.stages)
        self._own = range(place, params.stages, params.pipeline)
        if params.recompute and params.schedule not in RECOMPUTING:  # those do it themselves, when it is its turn
            recompute_blocks(module)
        module.train()
        self._stretches = {stage: Stretch(module, self._cuts, stage, precision) for stage in self._own}
        self._schedules: dict[tuple[int, int], Any] = {}
        # Of the step that is under way, for the last stage's loss:
        self._batch: Batch | None = None
        self._members: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._real = 0
        self.trace = Trace(layout.world.watch)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that this process updates, by their name in the whole network."""
        return {name: one for name, one in self.module.named_parameters() if self._stage_of(name) in self._own}

    def gradients(self, members: NDArray[np.int64]) -> Tensor:
        """Run this replica's micro-batches; return its share of the loss, all of it on the last stage."""
        params = self.layout.params
        mine = np.array_split(members, params.data)[self.layout.place("data")]
        self._real = len(mine)
        largest = -(-len(members) // params.data)
        rows = -(-largest // params.microbatches) * params.microbatches
        filled = np.concatenate([mine, np.repeat(members[:1], rows - len(mine))])
        batch = collate(self._data, filled, self._pad, _LENGTH_MULTIPLE).to(self._device)
        self._batch, self._members = batch, members
        schedule = self._schedule(rows, batch.ids.shape[1])
        first = [batch.ids] if 0 in self._own else []
        losses: list[Tensor] = []
        answers = params.stages - 1 in self._own
        schedule.step(
            *first, **batch.inputs, target=torch.arange(rows, device=self._device) if answers else None,
            losses=losses if answers else None, return_outputs=False,
        )  # fmt: skip
        self.layout.world.watch.waiting("gradients of the other replicas")
        own = list(self.parameters().values())
        complete(own)
        if params.data > 1:
            sum_over(own, self.layout.group("data"))
        update_ranges(self._observers, self.layout.group("data") if params.data > 1 else None)
        return torch.stack(losses).sum().detach() if answers else torch.zeros((), device=self._device)

    def clip(self, limit: float) -> None:
        """Scale gradients down to a global norm, each network's its own."""
        own = self.parameters()
        for number, _ in enumerate(members_of(self.module)):
            prefix = f"{number}." if isinstance(self.module, Together) else ""
            held = [parameter for name, parameter in own.items() if name.startswith(prefix)]
            clip(held, limit, [self.layout.group("pipeline")])

    def gather(self) -> None:
        """Bring the weights of all stages back into the whole network, on every process."""
        state = self._network.state_dict()
        own = self.module.state_dict()
        for name, tensor in state.items():
            stage = self._stage_of(name)
            if stage in self._own and self.module is not self._network:
                tensor.copy_(whole(own[name]))
            self._broadcast(tensor, stage)

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield the optimiser's whole state of every parameter, by name, on every process."""
        own = self.parameters()
        steps = {name: float(optimizer.state[one]["step"]) for name, one in own.items() if one in optimizer.state}
        found: list[dict[str, float] | None] = [None] * self.layout.params.pipeline
        dist.all_gather_object(found, steps, group=self.layout.group("pipeline"))
        known = {name: step for part in found if part is not None for name, step in part.items()}
        for name, parameter in self._network.named_parameters():
            if name not in known:
                continue
            stage, moments = self._stage_of(name), {}
            for key in ("exp_avg", "exp_avg_sq"):
                value = torch.empty_like(parameter)
                if stage in self._own:
                    value.copy_(whole(optimizer.state[own[name]][key]))
                self._broadcast(value, stage)
                moments[key] = value
            yield name, {"step": torch.tensor(known[name]), **moments}

    def close(self) -> None:
        """Leave the network as it was, but for its weights."""
        set_real_tokens(self._observers, None)
        self.layout.world.watch.rest()
        keep_activations(self._network)

    def _schedule(self, rows: int, length: int) -> Any:
        """Return the schedule for batches of a shape; torch's buffers are of one shape each."""
        if (rows, length) in self._schedules:
            return self._schedules[rows, length]
        params, group = self.layout.params, self.layout.group("pipeline")
        stages = [
            TracedStage(
                stretch, stage, params.stages, self._device, group=group, trace=self.trace,
                recompute=params.schedule in RECOMPUTING and not stretch.last,
            )
            for stage, stretch in self._stretches.items()
        ]  # fmt: skip
        made = make_runtime(params.schedule, stages, params.microbatches, self._loss_of)
        self._schedules[rows, length] = made
        return made

    def _loss_of(self, logits: Tensor | tuple[Tensor, ...], rows: Tensor) -> Tensor:
        """Return what a micro-batch adds to the loss of the whole batch, given its logits and its row numbers."""
        answers = (logits,) if isinstance(logits, Tensor) else logits
        batch, real = self._batch, rows < self._real
        assert batch is not None
        if not bool(real.any()):
            return torch.stack([answer.float().sum() for answer in answers]).sum() * 0.0
        part = batch.rows(rows[real])
        part = weighted(part, self._data.lengths[part.indices.cpu().numpy()], self._data.lengths[self._members])
        known = [Known(member, answer[real]) for member, answer in zip(members_of(self.module), answers, strict=True)]
        stand_in = Together(known) if isinstance(self.module, Together) else known[0]
        return self._loss(stand_in, part) * (len(part) / len(self._members))

    def _stage_of(self, name: str) -> int:
        return stage_of(name, self.module, self._cuts)

    def _broadcast(self, tensor: Tensor, stage: int) -> None:
        group = self.layout.group("pipeline")
        source = dist.get_global_rank(group, stage % self.layout.params.pipeline)
        dist.broadcast(tensor, src=source, group=group)


class Known(nn.Module):
    """A network whose answer is known: what a loss is given on the last stage."""

    def __init__(self, network: nn.Module, logits: Tensor) -> None:
        super().__init__()
        assert isinstance(network, PreTrainedModel)
        self.config = network.config
        self._logits = logits

    def forward(self, **_: Tensor) -> SequenceClassifierOutput:
        """Return the answer, whatever is asked."""
        return SequenceClassifierOutput(logits=self._logits)
