"""How should blocks be skipped: one graph with conditional branches, or a chain of part-models? Same weights, in turn.

    python -m benchmarks.early_exit

A MiniLM-shaped network with random exits, asked to leave behind the first block, behind the third, or never; a
plain export without exits is the baseline. Latency is of the whole call, selection of rows included.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks.results import claim, write_result
from lissom.artifacts import ONNX
from lissom.evaluate.latency import measure_latency
from lissom.export import attention
from lissom.export.onnx import trace_parts, write_graph
from lissom.models.edits import AddExits

_LAYERS, _LENGTH, _LABELS = 6, 24, 2
_DEPTHS = (1, 3, 6)


def main() -> None:
    """Measure every way at every depth, at batch 1 and 32."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=_LAYERS, num_attention_heads=12, intermediate_size=1536, num_labels=_LABELS
    )
    network = AutoModelForSequenceClassification.from_config(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        plain, early = Path(folder) / "plain.onnx", Path(folder) / ONNX
        write_graph(network, plain, 64)
        AddExits(size=128).apply(network)
        rows = []
        for depth in _DEPTHS:
            for number, leave in enumerate(network.exits, 1):  # certain at `depth`, torn before
                leave.classifier.weight.data.zero_()
                leave.classifier.bias.data.copy_(torch.tensor([9.0, -9.0]) if number >= depth else torch.zeros(2))
            write_graph(network, early, 64)
            network.set_attn_implementation(attention.NAME)
            chain = _chain(network, Path(folder))
            for size in (1, 32):
                rows += _measure(plain, early, chain, depth, size)
    ratios = {(row["batch"], row["leaves_behind"], row["way"]): row["over_no_exits"] for row in rows}
    gain = np.mean([ratios[1, depth, "chain of models"] / ratios[1, depth, "branches"] for depth in _DEPTHS])
    claims = {
        "branches_vs_chain_b1": claim(float(gain), "x", ">= 1"),
        "first_exit_over_no_exits_b1": claim(ratios[1, 1, "branches"], "x", "<= 0.3"),
        "full_depth_over_no_exits_b1": claim(ratios[1, _LAYERS, "branches"], "x", "<= 1.25"),
    }
    notes = [
        f"{_LAYERS} blocks of 384, {_LENGTH} tokens, two threads or fewer; all three ways in turn; branches_vs_chain is averaged over depths"
    ]
    write_result("early_exit", rows, claims, seeds=[0], notes=notes)


def _measure(
    plain: Path, early: Path, chain: Callable[[dict[str, Any], float], Any], depth: int, size: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 30000, (size, _LENGTH))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    speed = np.asarray(0.5, dtype=np.float32)
    whole, branches = _session(plain), _session(early)
    actual, chosen = branches.run(None, {**inputs, "speed": speed})
    other, chained = chain(inputs, float(speed))
    assert (chosen == depth).all() and (chained == depth).all() and np.abs(actual - other).max() < 1e-4
    runners = {
        "no exits": lambda _: whole.run(None, inputs),
        "branches": lambda _: branches.run(None, {**inputs, "speed": speed}),
        "chain of models": lambda _: chain(inputs, float(speed)),
    }
    times = measure_latency(runners, 1, size, 400, 8.0)
    return [
        {
            "batch": size, "leaves_behind": depth, "way": name, "mean_ms": time.mean, "p50_ms": time.p50,
            "over_no_exits": time.mean / times["no exits"].mean,
        }
        for name, time in times.items()
    ]  # fmt: skip


def _chain(network: Any, folder: Path) -> Callable[[dict[str, Any], float], Any]:
    sessions = []
    for number, part in enumerate(trace_parts(network, 64)):
        path = folder / f"part{number}.onnx"
        onnx.save(part, path)
        sessions.append(_session(path))
    embed, *steps = sessions

    def answer(inputs: dict[str, Any], speed: float) -> tuple[Any, Any]:
        (hidden,) = embed.run(None, inputs)
        mask = inputs["attention_mask"]
        active = np.arange(len(mask))
        logits, depth = np.zeros((len(mask), _LABELS), np.float32), np.zeros(len(mask), np.int64)
        for number, step in enumerate(steps, 1):
            hidden, actual = step.run(None, {"hidden": hidden, "attention_mask": mask})
            logits[active], depth[active] = actual, number
            shifted = actual - actual.max(-1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            stay = -(np.exp(log_p) * log_p).sum(-1) / np.log(_LABELS) > speed
            if not stay.any():
                break
            if not stay.all():
                hidden, mask, active = hidden[stay], mask[stay], active[stay]
        return logits, depth

    return answer


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
