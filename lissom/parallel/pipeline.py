"""Pipeline parallelism: every process holds a range of blocks, and micro-batches pass from stage to stage.

Based on torch's stages and schedule runtime; `varuna`, which torch lacks, is passed to that runtime as a table
(`lissom.parallel.runtime`). Every stage reads the tokens, so that only hidden states are sent. The loss is computed on
the last stage, on a stand-in network that returns the logits. All micro-batches of a step have one shape: a batch is
filled up with rows of weight 0 and padded to a multiple of 8 tokens, since torch allocates buffers per shape.
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
from lissom.parallel.gradients import all_reduce_gradients, clip, full_tensor, reduce_partial
from lissom.parallel.parts import Loss, weighted
from lissom.parallel.replicas import keep_activations, recompute_blocks, update_ranges
from lissom.parallel.runtime import RECOMPUTING, make_runtime
from lissom.parallel.stages import Stretch, split_blocks, stage_of
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
        self._cuts = split_blocks(module, params.stages)
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
        return {
            name: parameter for name, parameter in self.module.named_parameters() if self._stage_of(name) in self._own
        }

    def gradients(self, members: NDArray[np.int64]) -> Tensor:
        """Run this replica's micro-batches; return its share of the loss on the last stage, 0 on the others."""
        params = self.layout.params
        examples = np.array_split(members, params.data)[self.layout.place("data")]
        self._real = len(examples)
        largest = -(-len(members) // params.data)
        rows = -(-largest // params.microbatches) * params.microbatches
        padded_examples = np.concatenate([examples, np.repeat(members[:1], rows - len(examples))])
        batch = collate(self._data, padded_examples, self._pad, _LENGTH_MULTIPLE).to(self._device)
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
        parameters = list(self.parameters().values())
        reduce_partial(parameters)
        if params.data > 1:
            all_reduce_gradients(parameters, self.layout.group("data"))
        update_ranges(self._observers, self.layout.group("data") if params.data > 1 else None)
        return torch.stack(losses).sum().detach() if answers else torch.zeros((), device=self._device)

    def clip(self, limit: float) -> None:
        """Clip gradients to a global norm, separately for every member of a `Together`."""
        parameters = self.parameters()
        for number, _ in enumerate(members_of(self.module)):
            prefix = f"{number}." if isinstance(self.module, Together) else ""
            member_parameters = [parameter for name, parameter in parameters.items() if name.startswith(prefix)]
            clip(member_parameters, limit, [self.layout.group("pipeline")])

    def gather(self) -> None:
        """Broadcast the weights of all stages into the whole network, on every process."""
        state = self._network.state_dict()
        state_dict = self.module.state_dict()
        for name, tensor in state.items():
            stage = self._stage_of(name)
            if stage in self._own and self.module is not self._network:
                tensor.copy_(full_tensor(state_dict[name]))
            self._broadcast(tensor, stage)

    def gather_moments(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield name and unsharded optimiser state of every parameter, on every process."""
        parameters = self.parameters()
        steps = {name: float(optimizer.state[p]["step"]) for name, p in parameters.items() if p in optimizer.state}
        gathered: list[dict[str, float] | None] = [None] * self.layout.params.pipeline
        dist.all_gather_object(gathered, steps, group=self.layout.group("pipeline"))
        steps_by_name = {name: step for part in gathered if part is not None for name, step in part.items()}
        for name, parameter in self._network.named_parameters():
            if name not in steps_by_name:
                continue
            stage, moments = self._stage_of(name), {}
            for key in ("exp_avg", "exp_avg_sq"):
                value = torch.empty_like(parameter)
                if stage in self._own:
                    value.copy_(full_tensor(optimizer.state[parameters[name]][key]))
                self._broadcast(value, stage)
                moments[key] = value
            yield name, {"step": torch.tensor(steps_by_name[name]), **moments}

    def close(self) -> None:
        """Undo all changes to the network except its weights."""
        set_real_tokens(self._observers, None)
        self.layout.world.watch.disarm()
        keep_activations(self._network)

    def _schedule(self, rows: int, length: int) -> Any:
        """Return the schedule for batches of a shape, cached since torch's buffers have a fixed shape."""
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
        runtime = make_runtime(params.schedule, stages, params.microbatches, self._loss_of)
        self._schedules[rows, length] = runtime
        return runtime

    def _loss_of(self, logits: Tensor | tuple[Tensor, ...], rows: Tensor) -> Tensor:
        """Return the contribution of a micro-batch to the loss of the whole batch, given its logits and row numbers."""
        answers = (logits,) if isinstance(logits, Tensor) else logits
        batch, real = self._batch, rows < self._real
        assert batch is not None
        if not bool(real.any()):
            return torch.stack([answer.float().sum() for answer in answers]).sum() * 0.0
        part = batch.examples(rows[real])
        part = weighted(part, self._data, part.indices.cpu().numpy(), self._members)
        outputs = [
            FixedLogits(member, answer[real]) for member, answer in zip(members_of(self.module), answers, strict=True)
        ]
        stand_in = Together(outputs) if isinstance(self.module, Together) else outputs[0]
        return self._loss(stand_in, part) * (len(part) / len(self._members))

    def _stage_of(self, name: str) -> int:
        return stage_of(name, self.module, self._cuts)

    def _broadcast(self, tensor: Tensor, stage: int) -> None:
        group = self.layout.group("pipeline")
        source = dist.get_global_rank(group, stage % self.layout.params.pipeline)
        dist.broadcast(tensor, src=source, group=group)


class FixedLogits(nn.Module):
    """A stand-in network that returns given logits, for the loss on the last stage."""

    def __init__(self, network: nn.Module, logits: Tensor) -> None:
        super().__init__()
        assert isinstance(network, PreTrainedModel)
        self.config = network.config
        self._logits = logits

    def forward(self, **_: Tensor) -> SequenceClassifierOutput:
        """Return the logits; all inputs are ignored."""
        return SequenceClassifierOutput(logits=self._logits)
