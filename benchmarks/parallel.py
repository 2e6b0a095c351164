"""Parallel training on a machine without accelerators: what can be shown there, and is no speed.

    python -m benchmarks.parallel

That every layout trains as one process does; how many messages of which size a step sends, against the formulas; how long a
pipeline waits, with stages that take a given time, against (p - 1) / (m + p - 1) and against the simulator; what
recomputation saves; what the loop costs beside plain DDP code; and whether the cost model of `parallel: auto` is right
about the order of layouts. Processes are forked from this one, on loopback, with gloo.
"""

import statistics

import torch

from benchmarks.layouts.bubbles import UNIT_SECONDS, bubbles
from benchmarks.layouts.equality import equality
from benchmarks.layouts.memory import memory
from benchmarks.layouts.messages import bytes_of_replicas, messages_of_blocks
from benchmarks.layouts.speed import STEPS, overhead, predictions
from benchmarks.results import claim, write_result
from tests.distributed.processes import spread


def main() -> None:
    """Run all parts."""
    torch.set_num_threads(1)
    rows = equality()
    per_layer, size = spread(messages_of_blocks, tensor=2)[0]
    volume = spread(bytes_of_replicas, data=2)[0]
    rows += bubbles()
    rows += memory()
    overheads = spread(overhead, timeout=600, data=2)[0]
    loops = {name: statistics.median(seconds) for name, seconds in overheads.items()}
    rows += [{"part": "overhead", "layout": name, "ms_measured": median * 1e3} for name, median in loops.items()]
    chosen = predictions()
    rows += chosen
    held = {row["layout"]: row["kib"] for row in rows if row["part"] == "memory"}
    errors = [
        abs(row["bubble_measured"] - row["bubble_simulated"]) / row["bubble_simulated"]
        for row in rows
        if row["part"] == "bubble"
    ]
    proposed = min(chosen, key=lambda row: row["ms_predicted"])
    regret = proposed["ms_measured"] / min(row["ms_measured"] for row in chosen)
    cube = next(row for row in rows if row["layout"] == "2 x 2 x 2")
    claims = {
        "max_weight_diff_2x2x2": claim(cube["weights_float64"], "", "<= 1e-5"),
        "max_weight_diff_any_layout": claim(
            max(row["weights_float64"] for row in rows if row["part"] == "equality"), "", "<= 1e-5"
        ),
        "allreduce_per_layer": claim(per_layer, "", "<= 4"),
        "allreduce_bytes_over_formula": claim(size, "x", "<= 1.001"),
        "ddp_bytes_over_gradients": claim(volume, "x", "<= 1.001"),
        "bubble_error_max": claim(max(errors), "relative", "<= 0.1"),
        "recompute_memory_ratio": claim(held["gpipe, recomputed"] / held["gpipe"], "x", "<= 0.5"),
        "varuna_memory_ratio": claim(held["varuna"] / held["gpipe"], "x", "<= 0.2"),
        "loop_overhead": claim(loops["lissom"] / loops["plain DDP"] - 1, "relative", "<= 0.03"),
        "auto_regret": claim(regret - 1, "relative", "<= 0.1"),
    }
    notes = [
        "equality: 20 steps of AdamW, the largest difference of any weight and of the recorded losses; in float32 Adam enlarges rounding where gradients are nearly 0",
        "allreduce_per_layer: messages of one block, forward and backward, tensor 2; bytes of each over batch x tokens x width",
        f"bubble: stages wait {UNIT_SECONDS} s for a forward pass and twice that for a backward pass; one process each, so the two cores do not matter",
        "memory: bytes that autograd keeps on the first of two stages, 8 micro-batches",
        f"overhead: medians of {STEPS} steps of a MiniLM-sized network, in turn with plain DDP code in the same two processes",
        "auto: the proposed layout's measured time over the best measured one, minus 1",
        "no accelerator was at hand: bf16, torch.compile, NCCL and MFU have not been measured",
    ]  # fmt: skip
    write_result("parallel", rows, claims, seeds=[0], notes=notes)


if __name__ == "__main__":
    main()
