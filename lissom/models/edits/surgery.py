"""Selecting rows and columns of layers."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError


def slice_linear(
    network: PreTrainedModel, path: str, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None
) -> nn.Linear:
    """Return the Linear at `path`, `[out, in]`, with only the given output rows and input columns.

    Raises:
        InputError: the layer is not a plain Linear, since it is fake-quantised already.
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


def slice_rows(table: nn.Embedding, rows: Sequence[int]) -> nn.Embedding:
    """Return an embedding with only the given rows, which must include the padding row if there is one."""
    weight = table.weight.detach()
    rows_weight = weight[torch.tensor(rows, dtype=torch.long, device=weight.device)].contiguous()
    padding = None if table.padding_idx is None else list(rows).index(table.padding_idx)
    smaller = nn.Embedding(len(rows), weight.shape[1], padding_idx=padding, device="meta")
    smaller.weight = nn.Parameter(rows_weight, requires_grad=table.weight.requires_grad)
    return smaller


def check_indices(name: str, indices: Sequence[int], available: int) -> None:
    """Raise `InputError` unless `indices` are ascending, distinct, below `available` and not empty."""
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= available:
        excerpt = f"{list(indices[:8])}{'...' if len(indices) > 8 else ''}"
        raise InputError(f"{name}: kept {excerpt}; allowed are ascending, distinct numbers from 0 to {available - 1}")
