"""Gradients of parameters that are spread over processes: their norm, their sum, their values as a whole."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

_BUCKET_BYTES = 25 * 2**20


def clip(parameters: Iterable[nn.Parameter], limit: float, spread_over: Sequence[dist.ProcessGroup] = ()) -> None:
    """Scale gradients down to a global L2 norm, each element of the whole network counted once.

    Args:
        parameters: those that this process holds; of `DTensor`s it holds a piece.
        limit: the largest norm.
        spread_over: groups of processes that hold other parameters of the same network.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in held if parameter.grad is not None]
    if not spread_over and not any(isinstance(gradient, DTensor) for gradient in gradients):
        nn.utils.clip_grad_norm_(held, limit)
        return
    squares: dict[dist.ProcessGroup | None, list[Tensor]] = {}
    for gradient in gradients:
        group = _group_of_pieces(gradient)
        squares.setdefault(group, []).append(local(gradient).float().square().sum())
    total = torch.stack(squares.pop(None)).sum() if None in squares else torch.zeros((), device=_device(gradients))
    for group, pieces in squares.items():
        summed = torch.stack(pieces).sum()
        dist.all_reduce(summed, group=group)
        total = total + summed
    for group in spread_over:
        dist.all_reduce(total, group=group)
    scale = (limit / (total.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(scale.to(gradient.dtype))


def sum_over(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Add up the gradients of the replicas, in buckets; one that no replica has stays away."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    there = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
    there = there.to(local(trained[0]).device)
    dist.all_reduce(there, op=dist.ReduceOp.MAX, group=group)
    bucket: list[Tensor] = []
    size = 0
    for parameter, somewhere in zip(trained, there.tolist(), strict=True):
        if not somewhere:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = local(parameter.grad)
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= _BUCKET_BYTES:
            _sum_bucket(bucket, group)
            bucket, size = [], 0
    if bucket:
        _sum_bucket(bucket, group)


def complete(parameters: Iterable[nn.Parameter]) -> None:
    """Add up gradients that DTensor left as one summand on every process (those of norms, with split sequences)."""
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor) and isinstance(parameter, DTensor):
            parameter.grad = parameter.grad.redistribute(placements=parameter.placements)


def local(tensor: Tensor) -> Tensor:
    """Return the piece of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, on every process that holds a piece of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """Return a whole tensor in pieces, as `pattern` is; every process must have the same `value`."""
    value = value.to(pattern.device)
    if not isinstance(pattern, DTensor):
        return value
    return distribute_tensor(value, pattern.device_mesh, pattern.placements, src_data_rank=None)


def _group_of_pieces(gradient: Tensor) -> dist.ProcessGroup | None:
    """Return the processes that hold the other pieces of a gradient; None if each has all of it."""
    if not isinstance(gradient, DTensor):
        return None
    cut = [number for number, placement in enumerate(gradient.placements) if not isinstance(placement, Replicate)]
    assert len(cut) <= 1 and not any(gradient.placements[number].is_partial() for number in cut), gradient.placements
    return gradient.device_mesh.get_group(cut[0]) if cut else None


def _sum_bucket(gradients: list[Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    for gradient, summed in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def _device(gradients: Sequence[Tensor]) -> torch.device:
    return gradients[0].device if gradients else torch.device("cpu")
