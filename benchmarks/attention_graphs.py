"""Time of exported attention alone in onnxruntime, and its difference from its definition."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.attention_speed import BLOCK_LOCAL, DENSE, FIXED_RADIUS, HEADS, PATTERNS, WIDTH
from benchmarks.timing import PINNED, time_in_turn
from lissom.attention.config import Pattern
from lissom.attention.dense import AttentionInputs
from lissom.attention.run import attention
from lissom.attention.run import counts as oracle
from lissom.export.graph import tidy
from lissom.export.graph_file import save_graph
from lissom.export.onnx import export_module

_SAMPLED, _LONGEST = 64, 65536
_LONGEST_MASKED, _PADDED = 8192, "dense, with a padding mask"
"""With a mask onnxruntime's kernel holds all scores: 13 GB and more at 16,384 tokens."""
_NUMBERS = tuple(range(HEADS))


def time_graphs(tokens: int, seconds: float, *, dense: bool) -> dict[str, dict[str, Any]]:
    """Time the exported patterns in turn with exported dense attention, and compare sampled rows with their definition.

    Args:
        tokens: length of the sequence.
        seconds: time of undisturbed measuring.
        dense: whether attention of all pairs takes part.

    Returns:
        figures by pattern.
    """
    generator = np.random.default_rng(0)
    shape = (1, tokens, HEADS * WIDTH)
    feeds = {name: generator.standard_normal(shape, dtype=np.float32) for name in ("query", "key", "value")}
    feeds["mask"] = np.ones((1, tokens), np.int64)
    # Sessions keep their memory: all patterns together would not fit beyond the lengths of dense attention.
    taken = PATTERNS if dense else {name: PATTERNS[name] for name in (BLOCK_LOCAL, FIXED_RADIUS)}
    patterns: dict[str, Pattern | None] = {**taken, **({DENSE: None} if dense else {})}
    if tokens <= _LONGEST_MASKED:
        patterns[_PADDED] = None
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(patterns)}
        for name, pattern in patterns.items():
            _export(pattern, files[name], masked=name != DENSE)

        def runners(threads: int) -> Mapping[str, Any]:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            sessions = {name: onnxruntime.InferenceSession(path, options) for name, path in files.items()}
            return {name: partial(_run, session, _used(files[name], feeds)) for name, session in sessions.items()}

        timing = time_in_turn(runners, [1], setting=PINNED, seconds=seconds)
        rows = {}
        for name, pattern in patterns.items():
            output = onnxruntime.InferenceSession(files[name]).run(None, _used(files[name], feeds))[0]
            figures = {"ms": timing.latency(name).p50, "parity": _difference(output, feeds, pattern)}
            if dense and name != DENSE:
                speedup = timing.ratio(DENSE, name)
                figures |= {"speedup": speedup.value, "speedup_low": speedup.low, "speedup_high": speedup.high}
            rows[name] = {**figures, "disturbed": float(timing.conditions.disturbed is not None)}
    return rows


class _Attention(nn.Module):
    """Attention of projections `[batch, n, heads * d_h]`, with padding."""

    is_causal = False

    def __init__(self, pattern: Pattern | None, *, masked: bool) -> None:
        super().__init__()
        self._pattern, self._masked = pattern, masked

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, _ = query.shape
        if self._pattern is None:
            return torch.onnx.ops.symbolic(
                "com.microsoft::MultiHeadAttention",
                (query, key, value, *((None, mask.to(torch.int32)) if self._masked else ())),
                {"num_heads": HEADS}, dtype=torch.float32, shape=(batch, tokens, HEADS * WIDTH), version=1,
            )  # fmt: skip
        query, key, value = (t.view(batch, tokens, HEADS, WIDTH).transpose(1, 2) for t in (query, key, value))
        inputs = AttentionInputs(
            query, key, value, scale=WIDTH**-0.5, real=mask.bool(), heads=_NUMBERS, all_heads=HEADS
        )  # fmt: skip
        return attention(inputs, [self._pattern]).transpose(1, 2).reshape(batch, tokens, -1)


def _export(pattern: Pattern | None, path: Path, *, masked: bool = True) -> None:
    # As long as the longest input (see lissom/export/onnx.py).
    sample = tuple(torch.zeros(2, _LONGEST, HEADS * WIDTH) for _ in range(3))
    mask = torch.ones(2, _LONGEST, dtype=torch.int64)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=_LONGEST)}
    names = ["query", "key", "value", "mask"]
    export_module(_Attention(pattern, masked=masked), (*sample, mask), (shape,) * 4, names, ["output"], path)
    model = onnx.load(path)
    tidy(model.graph)
    save_graph(model, path)


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray[Any]], _: int) -> None:
    session.run(None, feeds)


def _difference(output: NDArray[np.float32], feeds: dict[str, NDArray[Any]], pattern: Pattern | None) -> float:
    """Return the largest difference of sampled rows from the definition of the pattern, in double precision."""
    tokens = output.shape[1]
    places = torch.from_numpy(np.sort(np.random.default_rng(1).choice(tokens, _SAMPLED, replace=False)))
    places[0], places[-1] = 0, tokens - 1
    query, key, value = (
        torch.from_numpy(feeds[name]).view(tokens, HEADS, WIDTH).transpose(0, 1).double()
        for name in ("query", "key", "value")
    )
    count = oracle([] if pattern is None else [pattern], places, tokens, _NUMBERS, HEADS, causal=False)
    scores = query[:, places] @ key.transpose(1, 2) * WIDTH**-0.5 + count.log()
    expected = (scores.softmax(-1) @ value).transpose(0, 1).reshape(_SAMPLED, -1)
    return float((torch.from_numpy(output[0])[places] - expected).abs().max())


def _used(path: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the inputs that a graph reads; the exporter keeps those that it does not."""
    graph = onnx.load(path).graph
    names = {value.name for value in graph.input}
    return {name: value for name, value in feeds.items() if name in names}
