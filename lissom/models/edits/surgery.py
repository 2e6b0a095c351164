"""Cutting rows and columns out of layers."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError


def cut_linear(
    network: PreTrainedModel, path: str, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None
) -> nn.Linear:
    """Return the Linear at `path`, `[out, in]`, with only the given output rows and input columns.

    Raises:
        InputError: the layer is no plain Linear: it was fake-quantised, and structure must change before that.
    """
    layer = network.get_submodule(path)
    if type(layer) is not nn.Linear:
        raise InputError(f"{path} is a {type(layer).__name__}, which cannot be cut: remove structure before that edit")
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if rows is not None:
        index = torch.tensor(rows, dtype=torch.long, device=weight.device)
        weight, bias = weight[index], None if bias is None else bias[index]
    if columns is not None:
        weight = weight[:, torch.tensor(columns, dtype=torch.long, device=weight.device)]
    smaller = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight.contiguous(), requires_grad=layer.weight.requires_grad)
    if bias is not None:
        smaller.bias = nn.Parameter(bias.contiguous(), requires_grad=layer.weight.requires_grad)
    return smaller.train(layer.training)


def cut_rows(table: nn.Embedding, rows: Sequence[int]) -> nn.Embedding:
    """Return an embedding with only the given rows; the padding row keeps its role."""
    weight = table.weight.detach()
    kept = weight[torch.tensor(rows, dtype=torch.long, device=weight.device)].contiguous()
    padding = None if table.padding_idx is None else list(rows).index(table.padding_idx)
    smaller = nn.Embedding(len(rows), weight.shape[1], padding_idx=padding, device="meta")
    smaller.weight = nn.Parameter(kept, requires_grad=table.weight.requires_grad)
    return smaller


def check_kept(what: str, kept: Sequence[int], available: int) -> None:
    """Raise `InputError` unless `kept` are ascending, distinct numbers below `available`, at least one."""
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= available:
        shown = f"{list(kept[:8])}{'...' if len(kept) > 8 else ''}"
        raise InputError(f"{what}: kept {shown}; allowed are ascending, distinct numbers from 0 to {available - 1}")
