"""Attention whose scores have a bias of relative positions that all blocks of a stack share, after pruning heads.

The first block of a T5's stack computes the bias of every head that the network was made with, and hands it on (Raffel
et al. 2020, arXiv:1910.10683, section 2.1). A block that has lost heads takes the rows of those that it has left.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "lissom_shared_bias"


def keep_rows(network: PreTrainedModel, module: nn.Module, kept: Sequence[int]) -> None:
    """Tell an attention module which of its heads stay, by their places, so that it takes their rows of the bias."""
    numbers: Any = getattr(module, "bias_rows", None)
    module.bias_rows = tuple(kept if numbers is None else (numbers[place] for place in kept))  # type: ignore[assignment]
    network.set_attn_implementation(NAME)


def own_rows(module: nn.Module, bias: Tensor) -> Tensor:
    """Return an attention module's rows of the bias of all heads, `[1, heads, n, m]`."""
    rows: tuple[int, ...] | None = getattr(module, "bias_rows", None)
    return bias if rows is None else bias[:, list(rows)]


def step_by_step(network: PreTrainedModel) -> str:
    """Return the name of an attention function for a network that computes scores and weights one after the other."""
    return NAME if network.config._attn_implementation == NAME else "eager"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step: the bias is of size `[heads, n, m]` anyway."""
    scores = query @ key.transpose(2, 3) * scaling
    if position_bias is not None:
        scores = scores + own_rows(module, position_bias)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores.float(), dim=-1).type_as(scores)
    output = F.dropout(weights, dropout, training=module.training) @ value
    return output.transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)
