"""Deep mutual learning: students with different initial weights learn from the labels and from each other's logits.

Zhang et al. 2018, arXiv:1706.00384, eq. 4-5: `L_k = CE + mean over l != k of KL(p_l || p_k)`, p_l without gradient.
All peers are updated in the same step (the paper does so one after the other). Returns the better peer by dev score.
"""

import torch
from torch import Tensor, nn

from lissom.data.batches import Batch
from lissom.distill.material import DistillationResult, Material
from lissom.distill.online_config import MutualDistillation, PeerParams
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.students import randomized, take_blocks
from lissom.models.together import Together
from lissom.tasks.task import Task
from lissom.training.hooks import Hook
from lissom.training.objective import objective
from lissom.training.predicting import Scorer


def distill(params: MutualDistillation, material: Material) -> DistillationResult:
    """Train all peers together and return the best; the metrics hold the scores of all."""
    peers = [make_peer(peer, material) for peer in params.peers]
    scorers = [material.scorer(peer, params.training) for peer in peers]
    loss = MutualLoss(params.kl_weight, params.rampup, material.task)
    metric = material.task.metric
    together = Together([peer.network for peer in peers])
    result = material.train(
        "training", together, material.texts(peers[0]), peers[0].pad_id, objective(loss), params.training,
        identity=params.model_dump_json(), hooks=[loss],
        score=Scorer(metric, lambda: metric.best(*(score() for score in scorers))),
    )  # fmt: skip
    scores = [score() for score in scorers]
    best = scores.index(metric.best(*scores))
    summary = {
        f"peer {number}": {"dev_score": score, "blocks": list(peer.blocks), "start": peer.start}
        for number, (peer, score) in enumerate(zip(params.peers, scores, strict=True))
    }
    return DistillationResult(peers[best], {"training": result}, {"peers": summary, "chosen_peer": best})


def make_peer(params: PeerParams, material: Material) -> CompressedModel:
    """Return a peer with its initial weights."""
    if params.start == "base":
        return take_blocks(material.load_base(params.seed), params.blocks)
    peer = take_blocks(material.teacher, params.blocks)
    return randomized(peer, params.seed) if params.start == "random" else peer


def mutual_losses(task: Task, logits: list[Tensor], targets: Tensor, kl_weight: float) -> list[Tensor]:
    """Return every peer's loss, given all logits `[batch, labels]`; a gradient flows into its own logits only."""
    losses = []
    for number, peer in enumerate(logits):
        divergences = [
            task.soft_loss(peer, peer_logits, 1.0) for place, peer_logits in enumerate(logits) if place != number
        ]
        losses.append(task.loss(peer, targets) + kl_weight * torch.stack(divergences).mean())
    return losses


class MutualLoss(Hook):
    """The sum of all peers' losses; no gradient flows from one peer's loss into another peer."""

    def __init__(self, kl_weight: float, rampup: float, task: Task) -> None:
        self._task = task
        self._full = kl_weight
        self._rampup = rampup
        self._weight = kl_weight

    def before_step(self, step: int, total: int) -> None:
        """Set the weight of the KL: it rises linearly over the first part of the training."""
        self._weight = self._full * min(1.0, (step + 1) / max(1.0, self._rampup * total))

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of all peers."""
        assert isinstance(network, Together)
        logits = [logits_of(peer, batch) for peer in network]
        return torch.stack(mutual_losses(self._task, logits, batch.targets, self._weight)).sum()
