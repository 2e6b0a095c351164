"""Tensor parallelism: heads and neurons of every block are sharded, with two all-reduces forward and two backward.

Shoeybi et al. 2019, arXiv:1909.08053: the first product of attention and FFN is sharded by output rows, the second by
input columns. The plan is derived from the families table and executed by DTensor. A separate seed inside attention
makes dropout differ between shards of heads, and nowhere else.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from transformers import PreTrainedModel

from lissom.models.families import family_of
from lissom.models.patterned import keep_share_of_heads
from lissom.models.sites import blocks_of, head_groups, head_size
from lissom.parallel.random_state import random_state, set_random_state

_SEQUENCE, _HEADS = 1, 2


def shard_network(network: PreTrainedModel, mesh: DeviceMesh, *, sequence: bool = False) -> list[str]:
    """Shard a network's heads, neurons and word table over a one-dimensional mesh, in place.

    Args:
        network: the whole network, with the same weights on every process.
        mesh: the processes of the dimension `tensor`.
        sequence: shard the sequence between the sharded layers; the mesh size must divide the length of batches.

    Returns:
        Descriptions of the layers that are replicated, since their size is not divisible.
    """
    family, uncut = family_of(network), []
    for number, block in enumerate(blocks_of(network)):
        plan, block_unsharded = block_plan(network, block, mesh.size(), sequence=sequence)
        parallelize_module(block, mesh, plan)
        uncut += [f"block {number}: {name}" for name in block_unsharded]
        for site in family.stack.attention:
            if site.module in plan:
                output = block.get_submodule(site.output)
                attention = block.get_submodule(site.module)
                _differ_until(attention, output, mesh.get_local_rank())
                keep_share_of_heads(attention, mesh.get_local_rank(), mesh.size())
    table = network.get_submodule(family.word_table)
    if type(table) is nn.Embedding:
        parallelize_module(network, mesh, {family.word_table: RowwiseParallel(input_layouts=Replicate())})
    if sequence:
        _split_sequence_between(network, mesh)
    return uncut


def block_plan(
    network: PreTrainedModel, block: nn.Module, size: int, *, sequence: bool = False
) -> tuple[dict[str, ParallelStyle], list[str]]:
    """Return the plan of one block for `size` processes, and descriptions of the layers that cannot be sharded.

    Plans differ between blocks that are pruned unevenly.
    """
    stack, uncut = family_of(network).stack, []
    outside: Placement = Shard(_SEQUENCE) if sequence else Replicate()
    plan: dict[str, ParallelStyle] = {}
    for site in stack.attention:
        output = block.get_submodule(site.output)
        assert isinstance(output, nn.Linear)
        heads = output.in_features // (head_size(network) * head_groups(network))
        if site.heads_attribute is not None:
            uncut.append("attention (its heads are counted by the module)")
        elif heads % size == 0:
            plan[site.module] = _OneInput(outside)
            plan |= {path: ColwiseParallel() for path in (site.query, site.key, site.value)}
            plan[site.output] = RowwiseParallel(output_layouts=outside)
            # Their inputs are `[batch, n, heads, d_h]`: each process has some heads, and gradients are summed over all.
            plan |= {path: SequenceParallel(sequence_dim=_HEADS, use_local_output=True) for path in site.norms}
        else:
            uncut.append(f"attention ({heads} heads)")
    for ffn in stack.ffn:
        neurons = block.get_submodule(ffn.output)
        assert isinstance(neurons, nn.Linear)
        if neurons.in_features % size == 0 and not stack.more_ffn:
            if len(ffn.inputs) > 1:  # gate and up read the same input: gathered once, its gradient reduced once
                plan[ffn.inputs[0].rpartition(".")[0]] = _OneInput(outside)
                plan |= {path: ColwiseParallel() for path in ffn.inputs}
            else:
                plan[ffn.inputs[0]] = ColwiseParallel(input_layouts=outside)
            plan[ffn.output] = RowwiseParallel(output_layouts=outside)
        else:
            uncut.append(f"FFN ({neurons.in_features} neurons)")
    if sequence:
        if uncut:
            uncut.append("sequence")
        of_heads = {path for site in stack.attention for path in site.norms}
        plan |= {
            path: SequenceParallel(use_local_output=True)
            for path, module in block.named_modules()
            if type(module).__name__.endswith("Norm") and path not in of_heads
        }
    return plan, uncut


class _OneInput(ParallelStyle):
    """Megatron's f: gathers the common input of several sharded layers, so that its gradient is reduced only once."""

    def __init__(self, outside: Placement) -> None:
        super().__init__()
        self._outside = outside

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def gather(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
            first = inputs[0] if inputs else keywords["hidden_states"]
            spread = DTensor.from_local(first, device_mesh, (self._outside,), run_check=False)
            spread = spread.redistribute(placements=(Replicate(),))
            return ((spread, *inputs[1:]), keywords) if inputs else (inputs, {**keywords, "hidden_states": spread})

        module.register_forward_pre_hook(gather, with_kwargs=True)
        return module


def _differ_until(attention: nn.Module, output: nn.Module, place: int) -> None:
    """Use a random seed of this process's own between two modules, and restore the generator's state afterwards."""
    outside: list[tuple[Tensor, ...]] = []

    def enter(module: nn.Module, _: tuple[Any, ...]) -> None:
        if module.training:
            seed = int(torch.randint(2**31, ()))  # the same on all, and again when activations are recomputed
            outside.append(random_state())
            torch.manual_seed(seed + place)

    def leave(module: nn.Module, _: tuple[Any, ...]) -> None:
        if module.training:
            set_random_state(outside.pop())

    attention.register_forward_pre_hook(enter)
    output.register_forward_pre_hook(leave)


def _split_sequence_between(network: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Shard the sequence before the first block, and gather it after the last."""
    blocks = blocks_of(network)

    def split(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        spread = DTensor.from_local(inputs[0], mesh, (Replicate(),), run_check=False)
        return (spread.redistribute(placements=(Shard(_SEQUENCE),)).to_local(), *inputs[1:])

    def join(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        spread = DTensor.from_local(hidden, mesh, (Shard(_SEQUENCE),), run_check=False)
        gathered = spread.redistribute(placements=(Replicate(),)).to_local()
        return (gathered, *output[1:]) if isinstance(output, tuple) else gathered

    blocks[0].register_forward_pre_hook(split)
    blocks[-1].register_forward_hook(join)
