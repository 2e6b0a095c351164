"""Time of attention alone in torch, and peak memory of one block."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.provenance import ROOT
from benchmarks.timing import PINNED, time_in_turn
from lissom.attention.config import BlockLocal, BlockStrided, FixedRadius, LongNet, Pattern, SparseTransformer
from lissom.attention.dense import AttentionInputs
from lissom.attention.run import attention
from lissom.attention.run import counts as oracle

HEADS, WIDTH, K = 12, 32, 128
DENSE, MASKED, FLEX, LONGFORMER = "dense", "masked dense", "FlexAttention, radius 128", "Longformer, radius 128"
BLOCK_LOCAL, FIXED_RADIUS, LONGNET = "block local", "fixed radius", "LongNet"
PATTERNS: dict[str, Pattern] = {
    BLOCK_LOCAL: BlockLocal(pattern="block_local", size=K),
    FIXED_RADIUS: FixedRadius(pattern="fixed_radius", radius=K),
    "fixed radius, [CLS] global": FixedRadius(pattern="fixed_radius", radius=K, global_tokens=1),
    "block strided": BlockStrided(pattern="block_strided", stride=K),
    "Sparse Transformer, strided": SparseTransformer(pattern="sparse_transformer", stride=K),
    "Sparse Transformer, fixed": SparseTransformer(pattern="sparse_transformer", form="fixed", stride=K),
    LONGNET: LongNet(pattern="longnet", segments=(128, 512, 2048, 8192, 32768), dilations=(1, 4, 16, 64, 256)),
}
_LONGEST_MASK, _LONGEST_BLOCK_MASK = 8192, 32768  # tokens, of n x n entries; FlexAttention's are made from as many


def time_patterns(
    tokens: int, seconds: float, *, backward: bool, dense: bool, peers: bool = True
) -> dict[str, dict[str, Any]]:
    """Time all patterns in turn with dense attention.

    Args:
        tokens: length of the sequence.
        seconds: time of undisturbed measuring.
        backward: time the forward and the backward pass, instead of the forward pass alone.
        dense: whether attention of all pairs takes part.
        peers: whether other implementations of the sliding window take part; FlexAttention has no backward pass on
            CPUs.

    Returns:
        figures by pattern.
    """
    torch.manual_seed(0)
    # The layout of a network's projections.
    query, key, value = (torch.randn(1, tokens, HEADS, WIDTH).transpose(1, 2) for _ in range(3))
    inputs = AttentionInputs(
        query, key, value, scale=WIDTH**-0.5, heads=tuple(range(HEADS)), all_heads=HEADS
    )  # fmt: skip
    if backward:
        for tensor in (query, key, value):
            tensor.requires_grad_()
    calls: dict[str, Callable[[], Tensor]] = {
        name: partial(attention, inputs, [pattern]) for name, pattern in PATTERNS.items()
    }
    if dense:
        calls[DENSE] = partial(functional.scaled_dot_product_attention, query, key, value)
    if dense and tokens <= _LONGEST_MASK:
        mask = oracle([PATTERNS[FIXED_RADIUS]], torch.arange(tokens), tokens, [0], 1, causal=False)[0] > 0
        calls[MASKED] = partial(functional.scaled_dot_product_attention, query, key, value, attn_mask=mask)
    if peers:
        calls |= _peers(query, key, value, tokens, backward=backward)

    def run(call: Callable[[], Tensor], _: int) -> None:
        if backward:
            torch.autograd.backward(call().sum())
        else:
            with torch.no_grad():
                call()

    runners = {name: partial(run, call) for name, call in calls.items()}
    timing = time_in_turn(lambda _: runners, [1], setting=PINNED, seconds=seconds)
    return {name: _figures(timing, name, dense=dense) for name in runners}


def _figures(timing: Any, name: str, *, dense: bool) -> dict[str, Any]:
    figures = {"ms": timing.latency(name).p50, "disturbed": float(timing.conditions.disturbed is not None)}
    if dense and name != DENSE:
        speedup = timing.ratio(DENSE, name)
        figures |= {
            "speedup": speedup.value, "speedup_low": speedup.low, "speedup_high": speedup.high,
            "over_dense": 1 / speedup.value,
        }  # fmt: skip
    return figures


def _peers(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, *, backward: bool
) -> dict[str, Callable[[], Tensor]]:
    """Return other implementations of the sliding window."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    peers: dict[str, Callable[[], Tensor]] = {}
    if K <= tokens <= _LONGEST_BLOCK_MASK and not backward:
        compiled = torch.compile(flex_attention, dynamic=False)
        mask = create_block_mask(lambda _, __, i, j: (i - j).abs() <= K, None, None, tokens, tokens, device="cpu")
        peers[FLEX] = partial(compiled, query, key, value, block_mask=mask)
    if tokens % (2 * K) == 0:
        config = LongformerConfig(
            hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, attention_window=[2 * K], num_hidden_layers=1
        )
        module = LongformerSelfAttention(config, 0).eval()
        hidden = query.transpose(1, 2).reshape(1, tokens, -1)
        real = torch.zeros(1, tokens)
        peers[LONGFORMER] = lambda: module(
            hidden, attention_mask=real, is_index_masked=real < 0, is_index_global_attn=real > 0, is_global_attn=False
        )[0]
    return peers


def peak_memory(pattern: str, tokens: int) -> dict[str, Any]:
    """Return the peak memory of processes that run one block of MiniLM's width on one text, in GiB."""
    figures: dict[str, Any] = {}
    for runtime in ("torch", "backward", "onnx"):
        if runtime == "onnx" and pattern == DENSE and tokens > _LONGEST_MASK:
            continue  # with padding, the kernel holds all scores
        command = [sys.executable, "-m", "benchmarks.attention_memory", runtime, str(tokens), pattern]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        figures |= {f"{runtime}_{name}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    return figures
