"""Gradients of sharded parameters: clipping, all-reduce, and conversion between shards and full tensors."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

_BUCKET_BYTES = 25 * 2**20


def clip(parameters: Iterable[nn.Parameter], limit: float, spread_over: Sequence[dist.ProcessGroup] = ()) -> None:
    """Clip gradients to a global L2 norm, in which each element of the whole network counts once.

    Args:
        parameters: the parameters of this process, plain or sharded (`DTensor`).
        limit: the largest norm.
        spread_over: process groups whose members hold other parameters of the same network.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    if not spread_over and not any(isinstance(gradient, DTensor) for gradient in gradients):
        nn.utils.clip_grad_norm_(with_gradient, limit)
        return
    squares: dict[dist.ProcessGroup | None, list[Tensor]] = {}
    for gradient in gradients:
        group = _group_of_pieces(gradient)
        squares.setdefault(group, []).append(local_tensor(gradient).float().square().sum())
    total = torch.stack(squares.pop(None)).sum() if None in squares else torch.zeros((), device=_device(gradients))
    for group, pieces in squares.items():
        square = torch.stack(pieces).sum()
        dist.all_reduce(square, group=group)
        total = total + square
    for group in spread_over:
        dist.all_reduce(total, group=group)
    scale = (limit / (total.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local_tensor(gradient).mul_(scale.to(gradient.dtype))


def all_reduce_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """All-reduce the gradients of the replicas, in buckets; a gradient that no replica has stays None."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    has_gradient = torch.tensor([parameter.grad is not None for parameter in trainable], dtype=torch.uint8)
    has_gradient = has_gradient.to(local_tensor(trainable[0]).device)
    dist.all_reduce(has_gradient, op=dist.ReduceOp.MAX, group=group)
    bucket: list[Tensor] = []
    size = 0
    for parameter, any_gradient in zip(trainable, has_gradient.tolist(), strict=True):
        if not any_gradient:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = local_tensor(parameter.grad)
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= _BUCKET_BYTES:
            _sum_bucket(bucket, group)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket, group)


def reduce_partial(parameters: Iterable[nn.Parameter]) -> None:
    """Reduce gradients that DTensor left in partial placement (those of norms, with sequence parallelism)."""
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor) and isinstance(parameter, DTensor):
            parameter.grad = parameter.grad.redistribute(placements=parameter.placements)


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered on every process that holds a shard of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, pattern: Tensor) -> Tensor:
    """Shard a full tensor like `pattern`; every process must have the same `value`."""
    value = value.to(pattern.device)
    if not isinstance(pattern, DTensor):
        return value
    return distribute_tensor(value, pattern.device_mesh, pattern.placements, src_data_rank=None)


def _group_of_pieces(gradient: Tensor) -> dist.ProcessGroup | None:
    """Return the process group over which a gradient is sharded; None if it is not."""
    if not isinstance(gradient, DTensor):
        return None
    dims = [number for number, placement in enumerate(gradient.placements) if not isinstance(placement, Replicate)]
    assert len(dims) <= 1 and not any(gradient.placements[number].is_partial() for number in dims), gradient.placements
    return gradient.device_mesh.get_group(dims[0]) if dims else None


def _sum_bucket(gradients: list[Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, total in zip(gradients, torch.split(flat, [tensor.numel() for tensor in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def _device(gradients: Sequence[Tensor]) -> torch.device:
    return gradients[0].device if gradients else torch.device("cpu")
