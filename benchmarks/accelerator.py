"""Throughput on one accelerator: lissom's loop, with and without generated kernels, against Hugging Face's Trainer.

    python -m benchmarks.accelerator              # needs CUDA, and the package accelerate for the Trainer
    python -m benchmarks.accelerator --rehearse   # everything once with a small network, wherever: no result

Random weights and random texts: of one length for MFU, of ragged lengths against the Trainer, in the same run, with the
same weights, loss, batch size, precision and frozen word table. MFU is 3 forward passes' operations for every text, over
the dense bfloat16 rate of the data sheet (PaLM, arXiv:2204.02311, appendix B).
"""

import copy
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import truediv
from typing import Any, Literal

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.layouts.networks import LOSS, texts
from benchmarks.results import Benchmark, Rows, folder_of, parser, record
from lissom.data.batches import Batch, collate
from lissom.data.encoding import Encoded
from lissom.models.compressed import accelerator
from lissom.models.flops import flops_by_depth
from lissom.parallel.measuring import this_machine
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import fit

LISSOM = "lissom"

NOTES = (
    "MFU is of peak_tflops, the data sheet's dense rate; product_tflops is that of a product of large bfloat16 matrices here",
    "ragged: half to all of the length; the Trainer is taken at its best, with and without grouping by length and torch.compile",
)

_SAMPLINGS = ("random", "group_by_length")
_PEAK_TFLOPS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}


@dataclass(frozen=True)
class Case:
    """What is trained, and how much of it."""

    name: str
    config: Any
    batch: int
    length: int
    steps: int = 60
    warm_up: int = 20

    def network(self, seed: int) -> Any:
        """Return the network with random weights."""
        torch.manual_seed(seed)
        kind = BertForSequenceClassification if isinstance(self.config, BertConfig) else LlamaForSequenceClassification
        return kind(self.config).to(accelerator())


_CASES = [
    Case("bert-base", BertConfig(num_labels=2), batch=64, length=128),
    Case("llama-1b", LlamaConfig(
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192,
        num_labels=2, pad_token_id=0,
    ), batch=16, length=512),
]  # fmt: skip
_SMALL = Case(
    "small",
    BertConfig(num_labels=2, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
    batch=8, length=32, steps=12, warm_up=4,
)  # fmt: skip


def main() -> None:
    """Measure all cases."""
    arguments = parser(__doc__).parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        sys.exit("there is no accelerator here: nothing to measure; `--rehearse` runs it with a small network")
    folder = folder_of(arguments)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    product_rate = this_machine().flops
    peak = next((tera * 1e12 for key, tera in _PEAK_TFLOPS.items() if key in name), product_rate)
    for case in [_SMALL] if arguments.rehearse else _CASES:
        for key, figures in measure(case, peak, arguments.seed):
            more = {"product_tflops": product_rate / 1e12, "peak_tflops": peak / 1e12}
            record(BENCHMARK, key, arguments.seed, figures | more, folder=folder)


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return the best MFU of BERT-base, and its throughput over the best Trainer's, seed by seed."""

    def best(figure: str, loops: Sequence[str], texts: str, precisions: Sequence[str]) -> PerSeed:
        ways = [
            rows.take(figure, network="bert-base", texts=texts, precision=precision, compiled=compiled, loop=loop)
            for precision, compiled, loop in product(precisions, ("False", "True"), loops)
        ]
        return paired(max, *ways)

    ours = best("examples_per_second", [LISSOM], "ragged", ["bfloat16"])
    trainers = best("examples_per_second", [f"Trainer, {sampling}" for sampling in _SAMPLINGS], "ragged", ["bfloat16"])
    return {
        "mfu_bert_base": claim(best("mfu", [LISSOM], "one length", ["float32", "bfloat16"]), "", ">= 0.3"),
        "throughput_vs_hf_trainer_gpu": claim(paired(truediv, ours, trainers), "x", ">= 1.3"),
    }


def measure(case: Case, peak: float, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Train in all ways, from the same weights."""
    start = case.network(seed)
    flops = 3 * flops_by_depth(start, [case.length])[case.length][-1]
    precisions: list[Literal["float32", "bfloat16"]] = ["float32", "bfloat16"]
    for shape, precision, compiling in product(("one length", "ragged"), precisions, (False, True)):
        data = texts(case.batch * case.steps, case.length, ragged=shape == "ragged")
        params = TrainingParams(
            epochs=1, batch_size=case.batch, precision=precision, compile=compiling, keep="last", seed=seed
        )
        key = {"network": case.name, "texts": shape, "precision": precision, "compiled": str(compiling)}
        rate = _lissom(copy.deepcopy(start), data, params, case)
        mfu = {"mfu": rate * flops / peak} if shape == "one length" else {}
        yield {**key, "loop": LISSOM}, {"examples_per_second": rate, **mfu}
        if precision == "bfloat16" and shape == "ragged":
            for sampling in _SAMPLINGS:
                rate = _trainer(copy.deepcopy(start), data, params, case, sampling)
                yield {**key, "loop": f"Trainer, {sampling}"}, {"examples_per_second": rate}


class _Clock(Hook):
    """Times the steps behind the warm-up, the device's work included."""

    def __init__(self, case: Case) -> None:
        self._case, self._times = case, [0.0, 0.0]

    def before_step(self, step: int, *_: int) -> None:
        """Start."""
        if step == self._case.warm_up:
            self._times[0] = _now()

    def after_step(self, step: int, *_: int) -> None:
        """Stop."""
        if step + 1 == self._case.steps:
            self._times[1] = _now()

    @property
    def rate(self) -> float:
        """Examples per second."""
        case = self._case
        return (case.steps - case.warm_up) * case.batch / (self._times[1] - self._times[0])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _lissom(network: Any, data: Encoded, params: TrainingParams, case: Case) -> float:
    clock = _Clock(case)
    fit(network, data, 0, LOSS, params, hooks=[clock])
    return clock.rate


def _trainer(network: Any, data: Encoded, params: TrainingParams, case: Case, sampling: str) -> float:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = _Clock(case)
    network.get_input_embeddings().requires_grad_(False)
    network.config.use_cache = False

    class Ticks(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            clock.before_step(state.global_step, case.steps)

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            clock.after_step(state.global_step - 1, case.steps)

    class Plain(Trainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            return LOSS(model, inputs["batch"].to(accelerator()))

    def collate_rows(rows: list[dict[str, Any]]) -> dict[str, Batch]:
        return {"batch": collate(data, np.asarray([row["index"] for row in rows]), 0)}

    # The sampler that groups asks for the length of `input_ids`.
    examples = [{"index": number, "input_ids": range(length)} for number, length in enumerate(data.lengths)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=case.batch, num_train_epochs=1, learning_rate=params.learning_rate,
            warmup_steps=params.warmup, weight_decay=params.weight_decay, max_grad_norm=params.max_grad_norm,
            bf16=True, torch_compile=params.compile, train_sampling_strategy=sampling,
            save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, report_to="none",
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        Plain(network, arguments, train_dataset=examples, data_collator=collate_rows, callbacks=[Ticks()]).train()
    return clock.rate


BENCHMARK = Benchmark("accelerator", ("network", "texts", "precision", "compiled", "loop"), claims, NOTES)

if __name__ == "__main__":
    main()
