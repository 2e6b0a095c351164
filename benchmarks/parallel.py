"""Parallel training on a machine without accelerators: what can be shown there, and is no speed.

    python -m benchmarks.parallel [PART ...] [--seed 1]

That every layout trains as one process does; how many messages of which size a step sends, against the formulas; how long a
pipeline waits, with stages that take a given time, against (p - 1) / (m + p - 1) and against the simulator; what
recomputation saves; what the loop costs beside plain DDP code; and whether the cost model of `parallel: auto` is right
about the order of layouts. Processes are forked from this one, on loopback, with gloo. What is expected and what is
measured have columns of their own, and neither is computed from the other.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from operator import truediv
from typing import Any

import torch

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.layouts import bubbles, speed
from benchmarks.layouts.bubbles import UNIT_SECONDS
from benchmarks.layouts.equality import LAYOUTS, equality
from benchmarks.layouts.memory import MICROBATCHES, memory
from benchmarks.layouts.messages import bytes_of_replicas, messages_of_blocks
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from tests.distributed.processes import spread

PARTS = ("equality", "messages", "bubble", "memory", "overhead", "auto")

_UNIT_REHEARSED = 0.01

NOTES = (
    "equality: 20 steps of AdamW, the largest difference of any weight and of the recorded losses; in float32 Adam enlarges rounding where gradients are nearly 0",
    "messages: all-reduces of one block, forward and backward, tensor 2; bytes of each over batch x tokens x width; bytes that DDP sends over the gradients'",
    f"bubble: stages wait {UNIT_SECONDS} s for a forward pass and twice that for a backward pass; one process each, so the two cores do not matter",
    f"memory: the first of two stages, {MICROBATCHES} micro-batches. kib_expected: the simulator's sets of activations times one micro-batch of the stage alone in one "
    "process; kib_saved: what autograd holds in the pipeline's step; kib_live: all tensors that the step makes, what is recomputed, gradients and temporary ones "
    "included, each storage once. Ratios claimed are of kib_live",
    "memory, old rows: kib_theory of gpipe was its own measurement, and the recomputed part was assumed on both sides",
    f"overhead: medians of {speed.STEPS} steps of a MiniLM-sized network, in turn with plain DDP code in the same two processes",
    "auto: auto_regret is the proposed layout's measured time over the best measured one, minus 1; auto_order the rank correlation (Kendall's tau) of all",
    "no accelerator was at hand: bf16, torch.compile, NCCL and MFU have not been measured",
)


def main() -> None:
    """Run the parts that are named, or all."""
    options = parser(__doc__)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is named")
    arguments = options.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    folder = folder_of(arguments)
    for part in arguments.parts or PARTS:
        for layout, figures in measure(part, arguments.seed, rehearse=arguments.rehearse):
            record(BENCHMARK, {"part": part, "layout": layout}, arguments.seed, figures, folder=folder)


def measure(part: str, seed: int, *, rehearse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a part: layout and figures."""
    match part:
        case "equality":
            yield from equality(seed)
        case "messages":
            count, size = spread(messages_of_blocks, tensor=2)[0]
            yield "tensor 2", {"per_block": count, "bytes_over_formula": size}
            yield "data 2", {"bytes_over_gradients": spread(bytes_of_replicas, data=2)[0]}
        case "bubble":
            yield from bubbles.bubbles(_UNIT_REHEARSED if rehearse else UNIT_SECONDS)
        case "memory":
            yield from memory(seed)
        case "overhead":
            loops = spread(speed.overhead, seed, 1 if rehearse else speed.ROUNDS, timeout=600, data=2)[0]
            for name, seconds in loops.items():
                yield name, {"ms_measured": statistics.median(seconds) * 1e3}
        case "auto":
            yield from speed.predictions()


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return claims of all parts."""

    def take(figure: str, part: str, layout: str) -> PerSeed:
        return rows.take(figure, part=part, layout=layout)

    def over(one: str, other: str) -> PerSeed:
        return paired(truediv, take("kib_live", "memory", one), take("kib_live", "memory", other))

    errors = [
        paired(_error, take("bubble_measured", "bubble", layout), take("bubble_simulated", "bubble", layout))
        for layout in (bubbles.label(*schedule) for schedule in bubbles.SCHEDULES)
    ]
    weights = [take("weights_float64", "equality", layout) for layout in LAYOUTS]
    auto = [
        take(figure, "auto", speed.label(layout))
        for layout in speed.LAYOUTS for figure in ("ms_measured", "ms_predicted")
    ]  # fmt: skip
    loops = paired(
        lambda ours, plain: ours / plain - 1,
        *(take("ms_measured", "overhead", name) for name in ("lissom", "plain DDP")),
    )
    return {
        "max_weight_diff_2x2x2": claim(take("weights_float64", "equality", "2 x 2 x 2"), "", "<= 1e-5"),
        "max_weight_diff_any_layout": claim(_joined(max, weights), "", "<= 1e-5"),
        "allreduce_per_layer": claim(take("per_block", "messages", "tensor 2"), "", "<= 4", exact=True),
        "allreduce_bytes_over_formula": claim(
            take("bytes_over_formula", "messages", "tensor 2"), "x", "<= 1.001", exact=True
        ),
        "ddp_bytes_over_gradients": claim(
            take("bytes_over_gradients", "messages", "data 2"), "x", "<= 1.001", exact=True
        ),
        "bubble_error_max": claim(_joined(max, errors), "relative", "<= 0.1"),
        "recompute_memory_ratio": claim(over("gpipe, recomputed", "gpipe"), "x", "<= 0.5"),
        "varuna_memory_ratio": claim(over("varuna", "gpipe"), "x", "<= 0.2"),
        "loop_overhead": claim(loops, "relative", "<= 0.03"),
        "auto_regret": claim(_joined(_regret, auto), "relative", "<= 0.1"),
        "auto_order": claim(_joined(_order, auto), "tau", None),
    }


def _joined(function: Callable[[tuple[float, ...]], float], figures: list[PerSeed]) -> PerSeed:
    """Return a function of figures of all layouts, for the seeds that all of them have."""
    return paired(lambda *values: function(values), *figures)


def _error(measured: float, simulated: float) -> float:
    return abs(measured - simulated) / simulated


def _regret(values: tuple[float, ...]) -> float:
    """Return what the layout of the least predicted time costs more; `values` are measured and predicted in turn."""
    measured, predicted = values[::2], values[1::2]
    return measured[predicted.index(min(predicted))] / min(measured) - 1


def _order(values: tuple[float, ...]) -> float:
    """Return Kendall's tau of predicted and measured times: 1 for the same order, -1 for the reverse."""
    pairs = list(combinations(zip(values[::2], values[1::2], strict=True), 2))
    signs = [1 if (one[0] - other[0]) * (one[1] - other[1]) > 0 else -1 for one, other in pairs]
    return sum(signs) / len(signs)


BENCHMARK = Benchmark("parallel", ("part", "layout"), claims, NOTES, tables="part")

if __name__ == "__main__":
    main()
