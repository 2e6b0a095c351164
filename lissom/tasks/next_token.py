"""What tasks have in common whose outputs are logits of the next token: a loss over a vocabulary, and its cache.

A distribution over a vocabulary is never kept for a whole split: a teacher's is cached as its most likely tokens and
the mass of all others (`remember`).
"""

from abc import ABC
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lissom.tasks.labels import agreement_of
from lissom.tasks.task import Task


class NextToken(Task, ABC):
    """Prediction of tokens; targets are token ids, `[tokens]`, or have them as their first column."""

    @property
    def is_distribution(self) -> bool:
        """Return true: the outputs are logits of a distribution over the tokens."""
        return True

    @property
    def is_per_token(self) -> bool:
        """Return true."""
        return True

    def head_config(self) -> dict[str, Any]:
        """Return nothing: the head is the pre-trained one."""
        return {}

    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Not defined: the targets are tokens, which `encode` makes of the texts."""
        raise NotImplementedError("the targets are tokens")

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in float32, averaged over tokens."""
        return self._cross_entropy(answers, targets, smoothing=0.0)

    def _cross_entropy(self, answers: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        ids = targets if targets.ndim == 1 else targets[:, 0]
        total = F.cross_entropy(answers.float(), ids, reduction="sum", label_smoothing=smoothing)
        return total / max(1, len(ids))

    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return T^2 KL(teacher || answers), averaged over tokens.

        A teacher's cached distribution is compared over its most likely tokens and one class for all others, whose
        mass is exact; that is defined at T = 1 only.
        """
        log_student = F.log_softmax(answers.float() / temperature, dim=-1)
        if teacher.shape[1] == answers.shape[1]:
            log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
            return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        assert temperature == 1, "params refuse other temperatures"
        tokens, log_teacher = from_cache(teacher.detach())
        gone = log_teacher[:, :-1].isneginf()  # tokens that the student lacks
        top = log_student.gather(1, tokens).masked_fill(gone, -torch.inf)
        compared = torch.cat([top, log_rest(top)], 1)
        gone = F.pad(gone, (0, 1))
        terms = log_teacher.exp() * (log_teacher.masked_fill(gone, 0) - compared.masked_fill(gone, 0))
        return terms.sum() / len(terms)

    def remember(self, outputs: Tensor, tokens: int) -> Tensor:
        """Return the most likely tokens with their log-probabilities and the logarithm of the rest's mass.

        Args:
            outputs: logits, `[tokens, vocabulary]`.
            tokens: k, the number of tokens that are cached for each position.

        Returns:
            `[tokens, 2 k + 1]`: k token ids, k log-probabilities, and the rest's. Ids below 2^24 are exact in float32.
            There are never as many columns as tokens, so that it cannot be taken for logits.
        """
        log_p = F.log_softmax(outputs.float(), dim=-1)
        count = min(tokens, outputs.shape[1] - 1)
        top, ids = log_p.topk(count - (2 * count + 1 == outputs.shape[1]))
        return torch.cat([ids.float(), top, log_rest(top)], 1)

    def cache_metrics(self, cached: Tensor) -> dict[str, float]:
        """Return the mean probability of all tokens that are not cached."""
        return {"probability_not_cached": float(cached[:, -1].exp().mean())}

    def agreement(self, reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> float | None:
        """Return the share of positions with the same most likely token, or a near tie of the reference's."""
        return agreement_of(reference, logits, tolerance)


def renumbered(cached: Tensor, new_ids: Tensor) -> Tensor:
    """Return a cached distribution, or logits, for a model that has some of the tokens only, by their new numbers.

    The distribution is that on the condition that the token is none of those that are known and gone; their entries
    have the log-probability -inf. Tokens that are gone and not cached stay within the rest.

    Args:
        cached: `[rows, 2 k + 1]` of `NextToken.remember`, or logits `[rows, vocabulary]`.
        new_ids: the new number of every token, -1 for those that are gone, `[vocabulary]`.
    """
    if cached.shape[1] == len(new_ids):
        return cached[:, new_ids >= 0]
    tokens, log_p = from_cache(cached)
    numbers = new_ids.to(cached.device)[tokens]
    gone = F.pad(numbers < 0, (0, 1))
    left = log_p.masked_fill(gone, -torch.inf)
    left, numbers = left - left.logsumexp(1, keepdim=True), numbers.clamp(min=0)
    if cached.shape[1] == int((new_ids >= 0).sum()):  # it would be taken for logits: one more that is gone
        left, numbers = F.pad(left, (1, 0), value=-torch.inf), F.pad(numbers, (1, 0))
    return torch.cat([numbers.float(), left], 1)


def from_cache(cached: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens `[rows, k]` and the log-probabilities of them and of the rest, `[rows, k + 1]`."""
    count = cached.shape[1] // 2
    return cached[:, :count].long(), cached[:, count:]


def log_rest(top: Tensor) -> Tensor:
    """Return log(1 - sum of exp(top)), `[rows, 1]`, without cancellation; bounded, since the sum may round to 1."""
    total = top.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.log(-torch.expm1(total))
