"""The training loop that all techniques share. A technique supplies a loss, edits before the training, and hooks.

The loop is the same for one process and for many: an engine (`lissom.parallel.engine`) computes the gradients.
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
from lissom.errors import DataError, DivergenceError
from lissom.machine import cpu_flags
from lissom.models.compressed import accelerator
from lissom.models.tied import tied_state, untied_state
from lissom.parallel.engine import Engine, make_engine
from lissom.parallel.gradients import shard_like
from lissom.parallel.world import Layout, World
from lissom.training.checkpoint import Checkpoints, Progress, TrainingState, identity_of
from lissom.training.compiling import compiled
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.objective import Objective
from lissom.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from lissom.training.predicting import Scorer
from lissom.training.preparing import training_mode
from lissom.training.stopping import Stopped, catch_sigterm

_STEPS_PER_RECORD = 10


@dataclass(frozen=True)
class TrainingResult:
    """Metrics of a training; the weights are in the network."""

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
) -> TrainingResult:
    """Train `network` in place and leave it in eval mode with the weights that `params.keep` asks for.

    The result is a function of the initial weights, the data, the params, the layout and the hooks: a training that is
    killed and resumed from a checkpoint ends with the same weights as an uninterrupted one (on the same machine).

    Args:
        network: the network, or several `Together`; edits must come before, since the optimiser is built here.
        data: training examples.
        pad: id of the padding token.
        objective: the loss to minimise.
        params: epochs, learning rate, seed and so on.
        score: computes the dev score of the current weights; called after every epoch.
        hooks: called around steps, in order.
        checkpoints: checkpoints to write and to resume from.
        identity: whatever else determines the training, such as the hooks' params; checkpoints of another identity
            are ignored.
        world: the processes that share the work, each of which makes the same call; None for a single process.
        rates: factors of the learning rate, keyed by regular expressions over parameter names.

    Raises:
        DataError: there is no example.
        DivergenceError: the loss is no longer finite.
        InputError: the network does not support gradient checkpointing.
        Stopped: SIGTERM was received; a checkpoint is written first if there are `checkpoints`.
    """
    if not len(data):
        raise DataError(
            "there is no example to train on; texts of a single token, and conversations whose answers are not found, "
            "have none for a language model"
        )
    network.to(accelerator())
    with training_mode(network, params):
        identity = identity_of(network, data, params, f"{objective.identity} {identity} {dict(rates or {})}")
        if world is not None:
            world.check_equal(identity, "the training")
        state = checkpoints.restore(identity, network) if checkpoints else None
        precision = autocast_type(params.precision)
        engine = make_engine(
            network, objective, data, pad, precision, world, needs_internals=objective.needs_internals
        )  # fmt: skip
        engine.module.train()
        optimizer = make_optimizer(engine.parameters(), params, rates or {})
        progress = Progress() if state is None else _resume(state, engine, optimizer)
        stack = ExitStack()
        for hook in hooks:
            hook.begin(engine.module)
            stack.callback(hook.end)
            for record in progress.records:  # the resumed run may log to another tracking run
                hook.on_record(record)
        per_epoch = math.ceil(len(data) / params.batch_size)
        total = max(1, round(params.epochs * per_epoch))
        start = time.monotonic() - progress.seconds
        kernels = compiled(engine.module, engine.layout) if params.compile else nullcontext()
        with stack, catch_sigterm() as stop_requested, kernels:
            for step, members in _batches(data, params, progress.step, total):
                if _has_converged(score, params, progress):
                    break
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
                progress.seconds = time.monotonic() - start
                epoch = progress.step / per_epoch
                if progress.step % _STEPS_PER_RECORD == 0 or progress.step == total:
                    mean = float(_total(torch.stack(progress.losses).mean(), engine.layout))
                    progress.losses.clear()
                    record = {"step": progress.step, "epoch": epoch, "loss": mean, "learning_rate": rate}
                    _record(record, progress, hooks)
                if score and (progress.step % per_epoch == 0 or progress.step == total):
                    engine.gather()
                    _evaluate(score, epoch, network, params, progress, hooks)
                    engine.module.train()
                stop, due = _any(world, stop_requested(), checkpoints is not None and checkpoints.due())
                if checkpoints and (stop or due):
                    _save(checkpoints, identity, network, engine, optimizer, progress)
                if stop:
                    raise Stopped(progress.step, total, has_checkpoint=checkpoints is not None)
        if checkpoints and any(_any(world, checkpoints.result_due(identity, progress.step))):
            _save(checkpoints, identity, network, engine, optimizer, progress)
        engine.gather()
        engine.close()
        if progress.best_weights:
            network.load_state_dict(tied_state(network, progress.best_weights))
    throughput = _examples(data, params, progress.step) / max(progress.seconds, 1e-9)
    return TrainingResult(progress.step, throughput, progress.best_score, progress.records)


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the autocast type for a precision; None stands for float32.

    `auto` is bfloat16 where the processor supports it natively; elsewhere it is emulated and slower than float32.
    """
    if precision == "auto":
        native = {"avx512_bf16", "amx_bf16"}.intersection(cpu_flags())
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bool(native)
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def precision_name(params: TrainingParams) -> str:
    """Return the name of the type of a training's matrix products, such as `bfloat16`."""
    return str(autocast_type(params.precision) or torch.float32).removeprefix("torch.")


def _batches(data: Encoded, params: TrainingParams, first: int, total: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield `(step, example indices)` from step `first` to step `total - 1`."""
    lengths, step, epoch = data.lengths, 0, 0
    while step < total:
        for members in shuffled_batches(lengths, params.batch_size, params.seed, epoch):
            if first <= step < total:
                yield step, members
            step += 1
        epoch += 1


def _examples(data: Encoded, params: TrainingParams, total: int) -> int:
    """Return the number of examples in `total` steps; the last batch of an epoch may be smaller than the others."""
    epochs, steps = divmod(total, math.ceil(len(data) / params.batch_size))
    batches = shuffled_batches(data.lengths, params.batch_size, params.seed, epochs)[:steps]
    return epochs * len(data) + sum(map(len, batches))


def _step_seed(seed: int, step: int, layout: Layout | None) -> int:
    """Return the seed of a step's dropout masks, a function of the step, so that a resumed training draws the same.

    The seed differs between replicas and between pipeline stages; it is the same within a tensor-parallel group.
    """
    place = 0 if layout is None else layout.world.rank // layout.params.tensor
    return int(np.random.SeedSequence((seed, step, place)).generate_state(1)[0])


def _resume(state: TrainingState, engine: Engine, optimizer: torch.optim.Optimizer) -> Progress:
    """Load a checkpoint's moments into the optimiser, sharded like the parameters; return the progress."""
    for name, parameter in engine.parameters().items():
        if name in state.moments:
            moments = state.moments[name].items()
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if value.ndim == 0 else shard_like(value, parameter)
                for key, value in moments
            }
    if engine.layout is not None:  # stored losses are sums over all processes
        parts = engine.layout.params.world / engine.layout.params.tensor
        state.progress.losses = [loss.to(accelerator()) / parts for loss in state.progress.losses]
    return state.progress


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
        snapshot = Progress(**{**vars(progress), "losses": list(totals)})
    else:
        snapshot = progress
    checkpoints.save(identity, network, engine.gather_moments(optimizer), snapshot)


def _total(value: torch.Tensor, layout: Layout | None) -> torch.Tensor:
    """All-reduce losses over all processes; the processes of a tensor-parallel group hold the same loss."""
    return value if layout is None else layout.world.all_reduce(value) / layout.params.tensor


def _any(world: World | None, *values: bool) -> list[bool]:
    return list(values) if world is None else world.any(*values)


def _evaluate(
    scorer: Scorer, epoch: float, network: nn.Module, params: TrainingParams, progress: Progress, hooks: Sequence[Hook]
) -> None:
    score = scorer()
    _record({"step": progress.step, "epoch": epoch, "dev_score": score}, progress, hooks)
    if progress.best_score is None or scorer.metric.improves(score, progress.best_score):
        progress.best_score = score
        if params.keep == "best":
            progress.best_weights = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in untied_state(network).items()
            }


def _has_converged(scorer: Scorer | None, params: TrainingParams, progress: Progress) -> bool:
    """Return whether the last `params.patience` looks at dev brought no better score."""
    if scorer is None or params.patience is None:
        return False
    scores = [record["dev_score"] for record in progress.records if "dev_score" in record]
    return bool(scores) and len(scores) - 1 - scores.index(scorer.metric.best(*scores)) >= params.patience


def _record(record: dict[str, float], progress: Progress, hooks: Sequence[Hook]) -> None:
    if not all(math.isfinite(value) for value in record.values()):
        raise DivergenceError(f"training diverged at step {record['step']:.0f}: {record}; lower the learning rate")
    progress.records.append(record)
    for hook in hooks:
        hook.on_record(record)
