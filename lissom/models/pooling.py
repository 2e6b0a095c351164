"""The hidden state of the token that stands for a whole text."""

import torch
from torch import Tensor


def text_vector(hidden: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
    """Return one hidden state per text, `[batch, d]`.

    That is the first token's ([CLS]) where attention sees both sides, and the last real token's where it is causal,
    since the first token of a causal network has seen nothing but itself.

    Args:
        hidden: hidden states, `[batch, n, d]`.
        mask: 1 for real tokens, `[batch, n]`.
        causal: whether a token sees only itself and the tokens before it.
    """
    if not causal:
        return hidden[:, 0]
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
