"""How much a model's answers change when the weights of one layer are changed, all others as they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.models.compressed import CompressedModel, logits_of
from lissom.training.config import CACHED_TOKENS

Change = Callable[[Tensor], Tensor]
"""Maps a weight, `[out, in]` or `[rows, d]`, to the changed one."""


@dataclass(frozen=True)
class Effect:
    """What a change of one layer does to the answers, averaged over the examples."""

    layer: str
    """Path of the layer."""
    change: str
    divergence: float
    """KL divergence of the changed answers from the model's own, in nats; of numbers, the squared distance. Of tokens,
    the divergence over the most likely ones and the rest as one class, as teachers are cached."""
    loss: float
    """Difference of the task's loss; positive is worse."""


def effects(
    model: CompressedModel, batches: Sequence[Batch], layers: Sequence[str], changes: Mapping[str, Change]
) -> Iterator[Effect]:
    """Yield the effect of every change on every layer; weights are as before when the iterator moves on or ends.

    Args:
        model: the model; its network runs in eval mode.
        batches: the examples.
        layers: paths of layers with a weight.
        changes: by name.
    """
    network, task = model.network.eval(), model.manifest.task
    device = next(network.parameters()).device
    moved = [batch.to(device) for batch in batches]
    shares = [len(batch) / sum(map(len, moved)) for batch in moved]

    def answers() -> Iterator[Tensor]:  # one after the other: those of language models fill the memory together
        for batch in moved:
            with torch.no_grad():
                yield logits_of(network, batch)

    own, before = [], 0.0
    for share, batch, logits in zip(shares, moved, answers(), strict=True):
        before += share * float(task.loss(logits, batch.targets))
        own.append(task.remember(logits, CACHED_TOKENS))
    for path in layers:
        weight = network.get_submodule(path).weight
        assert isinstance(weight, nn.Parameter)
        for name, change in changes.items():
            kept = weight.detach().clone()
            divergence, loss = 0.0, 0.0
            try:
                weight.data.copy_(change(kept))
                for share, batch, old, new in zip(shares, moved, own, answers(), strict=True):
                    divergence += share * float(task.soft_loss(new, old, 1.0))
                    loss += share * float(task.loss(new, batch.targets))
            finally:
                weight.data.copy_(kept)
            yield Effect(path, name, divergence, loss - before)
