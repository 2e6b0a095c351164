"""Compiling the blocks of a network with `torch.compile`, one by one, so that equal blocks share a kernel.

Hooks around a block (FSDP's gathering of weights, captured signals) stay outside the compiled code.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from lissom.console import note
from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.layers import has_indivisible
from lissom.models.sites import blocks_of
from lissom.models.together import members_of
from lissom.parallel.schedules import SPLITTING
from lissom.parallel.world import Layout

_VARIANTS = 4  # with and without gradients, in training and in eval mode


@contextmanager
def compiled(network: nn.Module, layout: Layout | None) -> Iterator[None]:
    """Compile the blocks of a network within the context, and log which blocks cannot be compiled.

    Batches of all lengths share one kernel.

    Raises:
        InputError: there is no C++ compiler, which torch.compile needs on a CPU.
    """
    all_blocks = [
        block
        for member in members_of(network)
        if isinstance(member, PreTrainedModel) and family_of(member).stacks
        for block in blocks_of(member)
    ]
    blocks = [block for block in all_blocks if not has_indivisible(block)]
    if reason := _unfit(layout):
        note(f"compile: {reason}: blocks stay as they are")
        blocks = []
    elif len(blocks) < len(all_blocks):
        note(
            f"compile: {len(all_blocks) - len(blocks)} of {len(all_blocks)} blocks are quantised, and stay as they are"
        )
    elif not all_blocks:
        note("compile: there are no Transformer blocks, and nothing changes")
    if blocks:
        _need_compiler(next(network.parameters()).device)
    for block in blocks:
        limit = _VARIANTS * len(blocks)  # each pruned block may be a variant of its own; torch's annotations lack this
        block.forward = torch.compile(block.forward, dynamic=True, recompile_limit=limit)  # type: ignore[call-overload]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _unfit(layout: Layout | None) -> str | None:
    """Return why a layout does not allow compiled blocks; None if it does."""
    if layout is None:
        return None
    if layout.params.tensor > 1:
        return "heads and neurons are shared with other processes"
    if layout.params.pipeline > 1 and layout.params.schedule in SPLITTING:
        return f"schedule {layout.params.schedule} takes the backward pass of a block apart"
    return None


def _need_compiler(device: torch.device) -> None:
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # torch's choice
    if device.type == "cpu" and shutil.which(name) is None:
        raise InputError(
            f"compile: true needs a C++ compiler, and there is no {name}; set compile: false, or install one (the "
            "variable CXX may name it)"
        )
