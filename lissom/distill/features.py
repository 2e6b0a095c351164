"""Losses between inner signals of student and teacher, computed in float32; padding is masked.

Masks are `[batch, n]`, 1 for real tokens, unless stated otherwise. Teacher signals get no gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over real tokens and channels of `[batch, n, d]`."""
    weights = mask.float()[..., None]
    errors = (student.float() - teacher.detach().float()).square() * weights
    return errors.sum() / (weights.sum() * student.shape[-1])


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return `1 - cos` averaged over real tokens of `[batch, n, d]` (DistilBERT's third loss)."""
    cosine = F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)
    return ((1 - cosine) * mask).sum() / mask.sum()


def score_mse(student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
    """Return the mean squared difference of attention scores before the softmax (TinyBERT, eq. 7).

    Args:
        student: scores `[batch, heads, n, n]`.
        teacher: the teacher's scores, of the same shape.
        pairs: the pairs of query and key to average over, `[batch, 1, n, n]` bool.
    """
    # Masked with `where`, not by a product: other pairs may hold infinities, and 0 * inf is NaN.
    difference = torch.where(pairs, student.float() - teacher.detach().float(), 0.0)
    return difference.square().sum() / (student.shape[1] * pairs.sum())


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of attention distributions, averaged over heads and real queries (MobileBERT).

    Every query sees every real key: the networks are bidirectional.

    Args:
        student: scores before the softmax, `[batch, heads, n, n]`.
        teacher: the teacher's scores, of the same shape.
        mask: real tokens, `[batch, n]`.
    """
    keys = mask.bool()[:, None, None, :]
    lowest = torch.finfo(torch.float32).min
    log_student = student.float().masked_fill(~keys, lowest).log_softmax(-1)
    log_teacher = teacher.detach().float().masked_fill(~keys, lowest).log_softmax(-1)
    per_key = torch.where(keys, log_teacher.exp() * (log_teacher - log_student), 0.0)
    per_query = per_key.sum(-1) * mask[:, None, :]
    return per_query.sum() / (student.shape[1] * mask.sum())


def patience(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of normalised vectors `[batch, d]`, 0 to 4, averaged over examples (PKD, eq. 5)."""
    difference = F.normalize(student.float(), dim=-1) - F.normalize(teacher.detach().float(), dim=-1)
    return difference.square().sum(-1).mean()
