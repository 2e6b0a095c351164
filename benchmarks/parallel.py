"""Parallel training on a machine without accelerators: what can be shown there, and is no speed.

    python -m benchmarks.parallel

That every layout trains as one process does; how many messages of which size a step sends, against the formulas; how long a
pipeline waits, with stages that take a given time, against (p - 1) / (m + p - 1) and against the simulator; what
recomputation saves; what the loop costs beside plain DDP code; and whether the cost model of `parallel: auto` is right
about the order of layouts. Processes are forked from this one, on loopback, with gloo.
"""

import copy
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks.results import claim, write_result
from lissom.data.batches import collate, shuffled_batches
from lissom.data.encoding import Encoded
from lissom.models.families import blocks_of
from lissom.parallel.config import ParallelParams
from lissom.parallel.engine import make_engine
from lissom.parallel.measuring import this_machine, workload
from lissom.parallel.plan import Machine, estimate
from lissom.parallel.rehearsal import rehearse
from lissom.parallel.schedules import make_schedule
from lissom.parallel.simulator import Costs, simulate
from lissom.parallel.tensor import cut_network
from lissom.parallel.world import World
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit
from lissom.training.losses import task_loss
from lissom.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from tests.distributed.processes import spread

_SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_WORDS = 2000
LAYOUTS: dict[str, dict[str, Any]] = {
    "data 2": {"data": 2},
    "data 2, 2 parts": {"data": 2, "microbatches": 2},
    "data 2, sharded": {"data": 2, "shard": True},
    "tensor 2": {"tensor": 2},
    "tensor 2, split sequence": {"tensor": 2, "sequence": True},
    "gpipe": {"pipeline": 2, "microbatches": 4, "schedule": "gpipe"},
    "1f1b": {"pipeline": 4, "microbatches": 4},
    "interleaved 1f1b": {"pipeline": 2, "microbatches": 4, "schedule": "interleaved_1f1b"},
    "zero bubble": {"pipeline": 2, "microbatches": 4, "schedule": "zero_bubble"},
    "varuna": {"pipeline": 4, "microbatches": 4, "schedule": "varuna"},
    "2 x 2 x 2": {"data": 2, "tensor": 2, "pipeline": 2, "microbatches": 2},
}
SCHEDULES = (
    ("gpipe", 4, 8), ("1f1b", 2, 4), ("1f1b", 4, 8), ("interleaved_1f1b", 4, 8), ("varuna", 4, 5), ("varuna_eager", 4, 5),
)  # fmt: skip
_UNIT_SECONDS = 0.15


def network_of(shape: dict[str, int], seed: int = 0, dropout: float = 0.0) -> Any:
    """Return a BERT of a shape with random weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        **shape, vocab_size=_WORDS, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return AutoModelForSequenceClassification.from_config(config)


def texts(count: int, length: int, ragged: bool = True) -> Encoded:
    """Return random texts."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 2, length + 1, count) if ragged else np.full(count, length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1, _WORDS, offsets[-1]).astype(np.int32)
    return Encoded(tokens, np.zeros(len(tokens), dtype=np.uint8), offsets, rng.integers(0, 2, count))


def trained(world: World | None, dtype: torch.dtype) -> tuple[dict[str, Any], list[float]]:
    """Train the small network for 20 steps; return weights and losses."""
    network = network_of(_SMALL).to(dtype)
    params = TrainingParams(epochs=2.5, batch_size=16, learning_rate=1e-3, precision="float32", freeze_word_table=False)
    losses: list[float] = []

    class Listen(Hook):
        def on_record(self, record: dict[str, float]) -> None:
            losses.append(record["loss"])

    fit(network, texts(125, 24), 0, task_loss, params, hooks=[Listen()], world=world)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}, losses


def equality() -> list[dict[str, Any]]:
    """Every layout against one process, in float64 and in float32 (where Adam enlarges what rounds differently)."""
    rows = []
    alone = {dtype: trained(None, dtype) for dtype in (torch.float64, torch.float32)}
    for name, layout in LAYOUTS.items():
        row: dict[str, Any] = {"part": "equality", "layout": name}
        for dtype, (weights, losses) in alone.items():
            state, told = spread(trained, dtype, **layout)[0]
            kind = str(dtype).removeprefix("torch.")
            row[f"weights_{kind}"] = max(float(np.abs(state[key] - weights[key]).max()) for key in weights)
            row[f"losses_{kind}"] = max(abs(ours - theirs) for ours, theirs in zip(told, losses, strict=True))
        rows.append(row)
        print(row, flush=True)
    return rows


def messages_of_blocks(world: World) -> tuple[int, float]:
    """Return all-reduces of one block, forward and backward, and the bytes of each over B n d."""
    network = network_of(_SMALL)
    cut_network(network, world.layout().mesh["tensor"])
    hidden = torch.randn(4, 16, 64, requires_grad=True)
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, kinds: Any, given: Any = (), named: Any = None) -> Any:
            if "all_reduce" in str(function):
                sizes.append(given[0].nbytes)
            return function(*given, **(named or {}))

    with CommDebugMode() as counted, Sizes():
        blocks_of(network)[0](hidden).square().sum().backward()
    return counted.get_total_counts(), sum(sizes) / (4 * hidden.nbytes)


def bytes_of_replicas(world: World) -> float:
    """Return the bytes that DDP all-reduces in a step, over the gradients'."""
    network, sent = network_of(_SMALL), [0]
    engine: Any = make_engine(network, task_loss, texts(16, 24), 0, None, world, looks_inside=False)

    def count(_: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent[0] += bucket.buffer().nbytes
        work = torch.distributed.all_reduce(bucket.buffer().div_(world.params.data), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    engine._compute.register_comm_hook(None, count)
    engine.gradients(np.arange(16))
    return sent[0] / sum(one.nbytes for one in network.parameters())


def bubbles() -> list[dict[str, Any]]:
    """Every schedule run, against the simulator and the formula."""
    rows = []
    for name, devices, microbatches in SCHEDULES:
        made = make_schedule(name, devices, microbatches)
        simulated = simulate(made, Costs())
        measured = rehearse(made, simulated.costs, _UNIT_SECONDS)
        plain = name in ("gpipe", "1f1b")
        rows.append({
            "part": "bubble", "layout": f"{name}, p {devices}, m {microbatches}",
            "makespan_simulated": simulated.makespan, "makespan_measured": measured.makespan,
            "bubble_simulated": simulated.bubble, "bubble_measured": measured.bubble,
            "bubble_formula": (devices - 1) / (microbatches + devices - 1) if plain else None,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def kept(world: World) -> int:
    """Return the most bytes that autograd holds for the backward pass of a step, on this process."""
    network = network_of(_SMALL)
    engine = make_engine(network, task_loss, texts(32, 24, ragged=False), 0, None, world, looks_inside=False)
    engine.gradients(np.arange(32))
    now, most, weights = [0], [0], {one.data_ptr() for one in network.parameters()}

    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.size = tensor, 0 if tensor.data_ptr() in weights else tensor.nbytes
            now[0] += self.size
            most[0] = max(most[0], now[0])

        def __del__(self) -> None:
            now[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        engine.gradients(np.arange(32))
    return most[0]


def memory() -> list[dict[str, Any]]:
    """What a stage of two holds with eight micro-batches: all of them, as many as are ahead, or inputs and one."""
    layout: dict[str, Any] = {"pipeline": 2, "microbatches": 8}
    cases: dict[str, dict[str, Any]] = {
        "gpipe": {"schedule": "gpipe"}, "1f1b": {}, "gpipe, recomputed": {"schedule": "gpipe", "recompute": True},
        "1f1b, recomputed": {"recompute": True}, "varuna": {"schedule": "varuna"},
    }  # fmt: skip
    found = {name: spread(kept, **layout, **more)[0] for name, more in cases.items()}
    one = found["gpipe"] / 8  # all activations of a micro-batch
    boundary = 4 * 24 * 64 * 4  # what goes into a block: 4 texts, 24 tokens, 64 channels, float32
    blocks = 2
    again = one / blocks  # made anew in the backward pass of a block, which autograd's hooks do not see: added to both
    inputs = (blocks + 1) * boundary  # of the embeddings' norm, too
    theory = {
        "gpipe": 8 * one, "1f1b": 2 * one, "gpipe, recomputed": 8 * inputs + again, "1f1b, recomputed": 2 * inputs + again,
        "varuna": one,
    }  # fmt: skip
    return [
        {
            "part": "memory", "layout": name, "kib_theory": theory[name] / 1024,
            "kib": (held + (again if "recomputed" in name else 0)) / 1024,
        }
        for name, held in found.items()
    ]  # fmt: skip


_STEPS, _ROUNDS, _WARM_UPS = 8, 6, 2


def overhead(world: World) -> dict[str, list[float]]:
    """Return the seconds of steps of our loop and of plain DDP code, taken in turn; the first of each round are left out."""
    data = texts(32 * _STEPS, 48, ragged=False)
    params = TrainingParams(epochs=1, batch_size=32, precision="float32")
    seconds: dict[str, list[float]] = {"lissom": [], "plain DDP": []}

    class Clock(Hook):
        """Notes when steps begin."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def before_step(self, *_: int) -> None:
            self.times.append(time.perf_counter())

    def plain(network: Any, clock: Clock) -> None:
        network.train()
        network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        ddp = DistributedDataParallel(network)
        optimizer = make_optimizer(network.parameters(), params)
        for step, members in enumerate(shuffled_batches(data.lengths, 32, 0, 0)):
            clock.before_step(step, _STEPS)
            set_learning_rate(optimizer, learning_rate(step, _STEPS, params))
            batch = collate(data, np.array_split(members, 2)[world.rank], 0)
            optimizer.zero_grad(set_to_none=True)
            logits = ddp(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits
            torch.nn.functional.cross_entropy(logits, batch.labels).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    def ours(network: Any, clock: Clock) -> None:
        fit(network, data, 0, task_loss, params, hooks=[clock], world=world)

    start = network_of(_MINILM, dropout=0.1)
    for number in range(_ROUNDS):
        turn = [("lissom", ours), ("plain DDP", plain)]
        for name, train in turn if number % 2 else turn[::-1]:
            network, clock = copy.deepcopy(start), Clock()
            world.any(False)
            train(network, clock)
            seconds[name] += np.diff(clock.times)[_WARM_UPS:].tolist()
    return seconds


def step_seconds(world: World) -> float:
    """Return the median time of a step of the larger network."""
    network = network_of(_MINILM)
    network.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    engine = make_engine(network, task_loss, texts(64, 64, ragged=False), 0, None, world, looks_inside=False)
    times = []
    for _ in range(6):
        world.any(False)
        began = time.perf_counter()
        engine.gradients(np.arange(32))
        world.any(False)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def predictions() -> list[dict[str, Any]]:
    """The cost model's milliseconds beside the measured ones, for layouts of two processes with one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = this_machine()
    torch.set_num_threads(threads)
    machine = Machine(2, 1, here.memory_bytes, here.flops, here.near_bytes, here.far_bytes, here.latency_seconds)
    work = workload(network_of(_MINILM), 32, 64)
    rows = []
    for layout in ({"data": 2}, {"tensor": 2}, {"pipeline": 2, "microbatches": 2}, {"pipeline": 2, "microbatches": 8}):
        params = ParallelParams.model_validate(layout)
        measured = max(spread(step_seconds, **layout))
        name = f"{params.factors}, {params.microbatches} parts"
        predicted = estimate(work, machine, params).seconds
        rows.append({"part": "auto", "layout": name, "ms_predicted": predicted * 1e3, "ms_measured": measured * 1e3})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run all parts."""
    torch.set_num_threads(1)
    rows = equality()
    per_layer, size = spread(messages_of_blocks, tensor=2)[0]
    volume = spread(bytes_of_replicas, data=2)[0]
    rows += bubbles()
    rows += memory()
    taken = spread(overhead, timeout=600, data=2)[0]
    loops = {name: statistics.median(seconds) for name, seconds in taken.items()}
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
        f"bubble: stages wait {_UNIT_SECONDS} s for a forward pass and twice that for a backward pass; one process each, so the two cores do not matter",
        "memory: bytes that autograd keeps on the first of two stages, 8 micro-batches",
        f"overhead: medians of {_ROUNDS * (_STEPS - _WARM_UPS - 1)} steps of a MiniLM-sized network, in turn with plain DDP code in the same two processes",
        "auto: the proposed layout's measured time over the best measured one, minus 1",
        "no accelerator was at hand: bf16, torch.compile, NCCL and MFU have not been measured",
    ]  # fmt: skip
    write_result("parallel", rows, claims, seeds=[0], notes=notes)


if __name__ == "__main__":
    main()
