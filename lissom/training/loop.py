"""The only training loop of the project. A technique enters as a loss, an edit made before, or a hook."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.data.batches import Batch, collate, shuffled_batches
from lissom.data.encoding import Encoded
from lissom.machine import cpu_flags
from lissom.models.compressed import accelerator
from lissom.models.families import family_of
from lissom.models.together import members_of
from lissom.training.checkpoint import Checkpoints, Progress, identity_of
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.losses import Loss
from lissom.training.optimizer import learning_rate, make_optimizer, set_learning_rate

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
    loss: Loss,
    params: TrainingParams,
    *,
    score: Callable[[], float] | None = None,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
    identity: str = "",
) -> Fitted:
    """Train `network` in place and leave it in eval mode with the weights that `params.keep` asks for.

    The result is a function of the start weights, the data, the params and the hooks: a training that was killed and
    resumed from a checkpoint ends with the same weights as one that was not (on the same machine and threads).

    Args:
        network: the network, or several `Together`; edits must be made before, since the optimiser is built here.
        data: training examples.
        pad: id of the padding token.
        loss: maps network and batch to the mean loss of the batch's examples.
        params: epochs, rates, seed and so on.
        score: dev score of the network as it is (higher is better), asked after every epoch.
        hooks: called around steps, in order.
        checkpoints: where to checkpoint to and resume from.
        identity: whatever else decides the training (the loss, say); a checkpoint of another identity is ignored.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    network.to(accelerator())
    frozen = _freeze(network, params)
    torch.manual_seed(params.seed)
    optimizer = make_optimizer(network, params)
    per_epoch = math.ceil(len(data) / params.batch_size)
    total = max(1, round(params.epochs * per_epoch))
    identity = identity_of(network, data, params, identity)
    progress = (checkpoints.restore(identity, network, optimizer) if checkpoints else None) or Progress()
    for record in progress.records:  # the run that was told of them may have been another one
        for hook in hooks:
            hook.on_record(record)
    precision = autocast_type(params.precision)
    network.train()
    started = time.monotonic() - progress.seconds
    for step, batch in _batches(data, pad, params, progress.step, total):
        for hook in hooks:
            hook.before_step(step, total)
        rate = learning_rate(step, total, params)
        set_learning_rate(optimizer, rate)
        progress.losses.append(_step(network, batch, loss, optimizer, params.max_grad_norm, precision))
        for hook in hooks:
            hook.after_step(step, total)
        progress.step = step + 1
        progress.seconds = time.monotonic() - started
        epoch = progress.step / per_epoch
        if progress.step % _STEPS_PER_RECORD == 0 or progress.step == total:
            mean = float(torch.stack(progress.losses).mean())
            progress.losses.clear()
            record = {"step": progress.step, "epoch": epoch, "loss": mean, "learning_rate": rate}
            _record(record, progress, hooks)
        if score and (progress.step % per_epoch == 0 or progress.step == total):
            _look_at_dev(score(), epoch, network, params, progress, hooks)
            network.train()
        if checkpoints and checkpoints.due():
            checkpoints.save(identity, network, optimizer, progress)
    if checkpoints:
        checkpoints.finish(identity, network, optimizer, progress)
    if progress.best_weights:
        network.load_state_dict(progress.best_weights)
    for parameter in frozen:
        parameter.requires_grad_(True)
    network.zero_grad(set_to_none=True)  # else a later training that freezes some would count their old gradients
    network.eval()
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


def _step(
    network: nn.Module,
    batch: Batch,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    precision: torch.dtype | None,
) -> Tensor:
    device = next(network.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=precision or torch.bfloat16, enabled=precision is not None):
        value = loss(network, batch.to(device))
    value.backward()  # type: ignore[no-untyped-call]
    for member in members_of(network):
        nn.utils.clip_grad_norm_(member.parameters(), max_grad_norm)
    optimizer.step()
    return value.detach()


def _batches(data: Encoded, pad: int, params: TrainingParams, first: int, total: int) -> Iterator[tuple[int, Batch]]:
    """Yield step numbers and batches from step `first` on: a resumed training sees what it had not yet seen."""
    lengths, step, epoch = data.lengths, 0, 0
    while step < total:
        for members in shuffled_batches(lengths, params.batch_size, params.seed, epoch):
            if first <= step < total:
                yield step, collate(data, members, pad)
            step += 1
        epoch += 1


def _freeze(network: nn.Module, params: TrainingParams) -> list[nn.Parameter]:
    if not params.freeze_word_table:
        return []
    networks = [member for member in members_of(network) if isinstance(member, PreTrainedModel)]
    tables = [network.get_submodule(family_of(network).word_table) for network in networks]
    frozen = [parameter for table in tables for parameter in table.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _look_at_dev(
    score: float, epoch: float, network: nn.Module, params: TrainingParams, progress: Progress, hooks: Sequence[Hook]
) -> None:
    _record({"step": progress.step, "epoch": epoch, "dev_score": score}, progress, hooks)
    if progress.best_score is None or score > progress.best_score:
        progress.best_score = score
        if params.keep == "best":
            progress.best_weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _record(record: dict[str, float], progress: Progress, hooks: Sequence[Hook]) -> None:
    if not all(math.isfinite(value) for value in record.values()):
        raise FloatingPointError(f"training diverged at step {record['step']:.0f}: {record}; lower the learning rate")
    progress.records.append(record)
    for hook in hooks:
        hook.on_record(record)
