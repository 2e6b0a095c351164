"""How should blocks be skipped: one graph with conditional branches, or a chain of part-models? Same weights, in turn.

    python -m benchmarks.early_exit [--seed 1]

A MiniLM-shaped network with random exits, asked to leave behind the first block, behind the third, or never; a
plain export without exits is the baseline. Latency is of the whole call, selection of rows included. Weights and
texts are drawn from the seed, and every seed is a timing session of its own.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from benchmarks.timing import PINNED, SETTINGS, time_in_turn
from lissom.artifacts import ONNX
from lissom.export import attention
from lissom.export.exported import Runner
from lissom.export.onnx import trace_parts, write_graph
from lissom.models.edits import AddExits
from lissom.tasks.classification import Classification

PLAIN, BRANCHES, CHAIN = "no exits", "branches", "chain of models"

_LAYERS, _LENGTH, _LABELS = 6, 24, 2
_TASK = Classification(name="none", labels=("no", "yes"), pair=False, max_length=64)
_DEPTHS, _BATCHES = (1, 3, 6), (1, 32)
_SECONDS = 8.0

NOTES = (
    f"{_LAYERS} blocks of 384, {_LENGTH} tokens; all three ways in turn; over_no_exits is of mean latencies",
    "claims are at batch 1, on one pinned core; branches_vs_chain is averaged over the depths, and its parts are claims, too",
    "old rows: two threads or fewer, on all cores",
)


def main() -> None:
    """Measure every way at every depth, at batch 1 and 32."""
    arguments = parser(__doc__).parse_args()
    folder = folder_of(arguments)
    for key, figures in measure(arguments.seed, 0.5 if arguments.rehearse else _SECONDS):
        record(BENCHMARK, key, arguments.seed, figures, folder=folder)


def measure(seed: int, seconds: float) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Yield the key and the figures of every row."""
    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=_LAYERS, num_attention_heads=12, intermediate_size=1536, num_labels=_LABELS
    )
    network = AutoModelForSequenceClassification.from_config(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        plain, early = Path(folder) / "plain.onnx", Path(folder) / ONNX
        write_graph(network, plain, _TASK)
        AddExits(size=128).apply(network)
        for depth in _DEPTHS:
            for number, leave in enumerate(network.exits, 1):  # certain at `depth`, torn before
                leave.classifier.weight.data.zero_()
                leave.classifier.bias.data.copy_(torch.tensor([9.0, -9.0]) if number >= depth else torch.zeros(2))
            write_graph(network, early, _TASK)
            network.set_attn_implementation(attention.NAME)
            parts = _write_parts(network, Path(folder))
            for size, setting in product(_BATCHES, SETTINGS):
                runners = partial(_runners, plain, early, parts, _inputs(size, seed), depth)
                timing = time_in_turn(runners, [size], setting=setting, seconds=seconds)
                times, disturbed = timing.latencies(), float(timing.conditions.disturbed is not None)
                for way, time in times.items():
                    key = {"batch": size, "leaves_behind": depth, "way": way, "cores": setting}
                    over = time.mean / times[PLAIN].mean
                    yield key, {"mean_ms": time.mean, "p50_ms": time.p50, "over_no_exits": over, "disturbed": disturbed}


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return ratios at batch 1 on one core."""

    def take(way: str, depth: int) -> PerSeed:
        pinned = rows.take("over_no_exits", batch=1, leaves_behind=depth, way=way, cores=PINNED)
        # Rows from before the number of cores was recorded have one setting.
        return pinned if pinned.values else rows.take("over_no_exits", batch=1, leaves_behind=depth, way=way)

    gains = {
        depth: paired(lambda one, other: one / other, take(CHAIN, depth), take(BRANCHES, depth)) for depth in _DEPTHS
    }
    return {
        "branches_vs_chain_b1": claim(paired(lambda *depths: mean(depths), *gains.values()), "x", ">= 1"),
        **{f"branches_vs_chain_b1_depth_{depth}": claim(gain, "x", ">= 1") for depth, gain in gains.items()},
        "first_exit_over_no_exits_b1": claim(take(BRANCHES, 1), "x", "<= 0.3"),
        "full_depth_over_no_exits_b1": claim(take(BRANCHES, _LAYERS), "x", "<= 1.25"),
    }


def _inputs(size: int, seed: int) -> dict[str, Any]:
    ids = np.random.default_rng(seed).integers(5, 30000, (size, _LENGTH))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _runners(
    plain: Path, early: Path, parts: Sequence[Path], inputs: dict[str, Any], depth: int, threads: int
) -> Mapping[str, Runner]:
    """Return runners of the three ways, which leave behind `depth` with the same answers."""
    speed = np.asarray(0.5, dtype=np.float32)
    whole, branches, chain = _session(plain, threads), _session(early, threads), _chain(parts, threads)
    actual, chosen = branches.run(None, {**inputs, "speed": speed})
    other, chained = chain(inputs, float(speed))
    assert (chosen == depth).all() and (chained == depth).all() and np.abs(actual - other).max() < 1e-4

    def run_chain(_: int) -> None:
        chain(inputs, float(speed))

    return {
        PLAIN: lambda _: whole.run(None, inputs),
        BRANCHES: lambda _: branches.run(None, {**inputs, "speed": speed}),
        CHAIN: run_chain,
    }


def _write_parts(network: Any, folder: Path) -> list[Path]:
    paths = []
    for number, part in enumerate(trace_parts(network, 64)):
        paths.append(folder / f"part{number}.onnx")
        onnx.save(part, paths[-1])
    return paths


def _chain(paths: Sequence[Path], threads: int) -> Callable[[dict[str, Any], float], Any]:
    embed, *steps = (_session(path, threads) for path in paths)

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


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


BENCHMARK = Benchmark("early_exit", ("batch", "leaves_behind", "way", "cores"), claims, NOTES, timed=("over_no_exits",))

if __name__ == "__main__":
    main()
