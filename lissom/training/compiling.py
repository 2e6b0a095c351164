"""Blocks as generated kernels (`torch.compile`): one after the other, so that equal blocks share what is generated.

What is around a block (weights in pieces, signals) stays outside, in plain Python.
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
from lissom.models.families import blocks_of, family_of
from lissom.models.layers import has_indivisible
from lissom.models.together import members_of
from lissom.parallel.schedules import SPLITTING
from lissom.parallel.world import Layout

_VARIANTS = 4  # with and without gradients, in training and in eval mode


@contextmanager
def compiled(network: nn.Module, layout: Layout | None) -> Iterator[None]:
    """Let the blocks of a network run as generated kernels while the context lasts; say which cannot.

    Batches of all lengths share one kernel. Raises `InputError` where nothing can be generated for want of a compiler.
    """
    found = [
        block
        for member in members_of(network)
        if isinstance(member, PreTrainedModel) and family_of(member).stacks
        for block in blocks_of(member)
    ]
    blocks = [block for block in found if not has_indivisible(block)]
    if reason := _unfit(layout):
        note(f"compile: {reason}: blocks stay as they are")
        blocks = []
    elif len(blocks) < len(found):
        note(f"compile: {len(found) - len(blocks)} of {len(found)} blocks are quantised, and stay as they are")
    elif not found:
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
    """Return what of a layout generated kernels cannot do."""
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
