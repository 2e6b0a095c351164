"""The only training loop of the project. A technique enters as a loss, an edit made before, or a hook.

It is the same for one process and for many: what a step is made of, and who does which part of it, is the engine's
business (`lissom.parallel.engine`).
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lissom.data.batches import shuffled_batches
from lissom.data.encoding import Encoded
from lissom.errors import DivergenceError
from lissom.machine import cpu_flags
from lissom.models.compressed import accelerator
from lissom.models.tied import untied, whole
from lissom.parallel.engine import Engine, make_engine
from lissom.parallel.gradients import like
from lissom.parallel.world import Layout, World
from lissom.training.checkpoint import Checkpoints, Progress, Restored, identity_of
from lissom.training.compiling import compiled
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.objective import Objective
from lissom.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from lissom.training.predicting import Scorer
from lissom.training.preparing import prepared
from lissom.training.stopping import Stopped, listening

_STEPS_PER_RECORD = 10


@dataclass(frozen=True)
class Fitted:
    """What a training tells about itself; the weights are in the network."""

    steps: int
    examples_per_second: float
    best_score: float | None
    records: list[dict[str, float]]


def fit(
    network: nn.Module,
    data: Encoded,
    pad: int,
    objective: Objective,
    params: TrainingParams,
    *,
    score: Scorer | None = None,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    identity: str = "",
    world: World | None = None,
    rates: Mapping[str, float] | None = None,
) -> Fitted:
    """Train `network` in place and leave it in eval mode with the weights that `params.keep` asks for.

    The result is a function of the start weights, the data, the params, the layout and the hooks: a training that was
    killed and resumed from a checkpoint ends with the same weights as one that was not (on the same machine).

    Args:
        network: the network, or several `Together`; edits must be made before, since the optimiser is built here.
        data: training examples.
        pad: id of the padding token.
        objective: what is minimised.
        params: epochs, rates, seed and so on.
        score: dev score of the network as it is, asked after every epoch.
        hooks: called around steps, in order.
        checkpoints: where to checkpoint to and resume from.
        identity: whatever else decides the training (what hooks do, say); a checkpoint of another one is ignored.
        world: the processes that share the work, each of which makes the same call; None for this one alone.
        rates: factors of the learning rate by regular expressions over names of parameters.

    Raises:
        DivergenceError: the loss is no longer finite.
        Stopped: the process was asked to end, and a checkpoint is written.
    """
    network.to(accelerator())
    with prepared(network, params):
        identity = identity_of(network, data, params, f"{objective.identity} {identity} {dict(rates or {})}")
        if world is not None:
            world.agree(identity, "the training")
        restored = checkpoints.restore(identity, network) if checkpoints else None
        precision = autocast_type(params.precision)
        engine = make_engine(
            network, objective, data, pad, precision, world, looks_inside=objective.looks_inside
        )  # fmt: skip
        engine.trained.train()
        optimizer = make_optimizer(engine.parameters(), params, rates or {})
        progress = Progress() if restored is None else _take_up(restored, engine, optimizer)
        ending = ExitStack()
        for hook in hooks:
            hook.begin(engine.trained)
            ending.callback(hook.end)
            for record in progress.records:  # the run that was told of them may have been another one
                hook.on_record(record)
        per_epoch = math.ceil(len(data) / params.batch_size)
        total = max(1, round(params.epochs * per_epoch))
        started = time.monotonic() - progress.seconds
        kernels = compiled(engine.trained, engine.layout) if params.compile else nullcontext()
        with ending, listening() as asked, kernels:
            for step, members in _batches(data, params, progress.step, total):
                for hook in hooks:
                    hook.before_step(step, total)
                rate = learning_rate(step, total, params)
                set_learning_rate(optimizer, rate)
                torch.manual_seed(_step_seed(params.seed, step, engine.layout))
                optimizer.zero_grad(set_to_none=True)
                progress.losses.append(engine.gradients(members))
                for hook in hooks:
                    hook.on_gradients()
                engine.clip(params.max_grad_norm)
                optimizer.step()
                for hook in hooks:
                    hook.after_step(step, total)
                progress.step = step + 1
                progress.seconds = time.monotonic() - started
                epoch = progress.step / per_epoch
                if progress.step % _STEPS_PER_RECORD == 0 or progress.step == total:
                    mean = float(_total(torch.stack(progress.losses).mean(), engine.layout))
                    progress.losses.clear()
                    record = {"step": progress.step, "epoch": epoch, "loss": mean, "learning_rate": rate}
                    _record(record, progress, hooks)
                if score and (progress.step % per_epoch == 0 or progress.step == total):
                    engine.gather()
                    _look_at_dev(score, epoch, network, params, progress, hooks)
                    engine.trained.train()
                stop, due = _any(world, asked(), checkpoints is not None and checkpoints.due())
                if checkpoints and (stop or due):
                    _save(checkpoints, identity, network, engine, optimizer, progress)
                if stop:
                    raise Stopped(progress.step, total, kept=checkpoints is not None)
        if checkpoints and any(_any(world, checkpoints.result_due(identity, progress.step))):
            _save(checkpoints, identity, network, engine, optimizer, progress)
        engine.gather()
        engine.close()
    if progress.best_weights:
        network.load_state_dict(whole(network, progress.best_weights))
    done = total * params.batch_size / max(progress.seconds, 1e-9)
    return Fitted(total, done, progress.best_score, progress.records)


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the autocast type for a precision: None is float32.

    bfloat16 where the processor multiplies it natively: elsewhere it is emulated, and slower than float32.
    """
    if precision == "auto":
        native = {"avx512_bf16", "amx_bf16"}.intersection(cpu_flags())
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bool(native)
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def precision_name(params: TrainingParams) -> str:
    """Return the type that a training multiplies in."""
    return str(autocast_type(params.precision) or torch.float32).removeprefix("torch.")


def _batches(data: Encoded, params: TrainingParams, first: int, total: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield step numbers and the numbers of examples from step `first` on: what a resumed training had not yet seen."""
    lengths, step, epoch = data.lengths, 0, 0
    while step < total:
        for members in shuffled_batches(lengths, params.batch_size, params.seed, epoch):
            if first <= step < total:
                yield step, members
            step += 1
        epoch += 1


def _step_seed(seed: int, step: int, layout: Layout | None) -> int:
    """Return the seed of a step's masks: it follows from the step, so that a resumed training draws the same ones.

    Replicas and stages of a pipeline draw their own; processes that share the heads of one block draw the same.
    """
    place = 0 if layout is None else layout.world.rank // layout.params.tensor
    return int(np.random.SeedSequence((seed, step, place)).generate_state(1)[0])


def _take_up(restored: Restored, engine: Engine, optimizer: torch.optim.Optimizer) -> Progress:
    """Give the optimiser its moments back, each process its pieces."""
    for name, parameter in engine.parameters().items():
        if name in restored.moments:
            moments = restored.moments[name].items()
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if value.ndim == 0 else like(value, parameter) for key, value in moments
            }
    if engine.layout is not None:  # the losses were added up over all processes: each takes its part of them
        parts = engine.layout.params.world / engine.layout.params.tensor
        restored.progress.losses = [loss.to(accelerator()) / parts for loss in restored.progress.losses]
    return restored.progress


def _save(
    checkpoints: Checkpoints,
    identity: str,
    network: nn.Module,
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    engine.gather()
    if progress.losses:
        totals = _total(torch.stack(progress.losses), engine.layout)
        if not bool(totals.isfinite().all()):
            raise DivergenceError(f"training diverged before step {progress.step + 1}; lower the learning rate")
        told = Progress(**{**vars(progress), "losses": list(totals)})
    else:
        told = progress
    checkpoints.save(identity, network, engine.gather_moments(optimizer), told)


def _total(value: torch.Tensor, layout: Layout | None) -> torch.Tensor:
    """Return losses over all processes; those that share the heads of a block each have the same one."""
    return value if layout is None else layout.world.total(value) / layout.params.tensor


def _any(world: World | None, *values: bool) -> list[bool]:
    return list(values) if world is None else world.any(*values)


def _look_at_dev(
    scorer: Scorer, epoch: float, network: nn.Module, params: TrainingParams, progress: Progress, hooks: Sequence[Hook]
) -> None:
    score = scorer()
    _record({"step": progress.step, "epoch": epoch, "dev_score": score}, progress, hooks)
    if progress.best_score is None or scorer.metric.improves(score, progress.best_score):
        progress.best_score = score
        if params.keep == "best":
            progress.best_weights = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in untied(network).items()
            }


def _record(record: dict[str, float], progress: Progress, hooks: Sequence[Hook]) -> None:
    if not all(math.isfinite(value) for value in record.values()):
        raise DivergenceError(f"training diverged at step {record['step']:.0f}: {record}; lower the learning rate")
    progress.records.append(record)
    for hook in hooks:
        hook.on_record(record)
