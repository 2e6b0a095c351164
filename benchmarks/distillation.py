"""All methods of distillation on SST-2 and TREC-6, one row for each method, data set and seed.

    python -m benchmarks.distillation [METHOD ...] [--data sst2] [--seed 1] [--device cuda]

Recipes are in benchmarks/distillation.yaml. Every seed has a teacher of its own (benchmarks/teachers.py), shared by all
methods, so that differences between methods are paired. It needs the library and the data sets alone; energy is shown
where CodeCarbon is installed. No seed is picked: the table tells all that were run.
"""

import os
import sys
from collections.abc import Iterable
from itertools import product
from operator import sub
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.claims import PerSeed, claim, paired
from benchmarks.distilling import BATCH, measure, recipes
from benchmarks.results import Benchmark, Key, Rows, folder_of, parser, record
from benchmarks.teachers import params_of, teacher_of
from benchmarks.timing import PINNED, time_in_turn
from lissom.artifacts import EXPORT_RECORD, write_json
from lissom.distill.material import DistillationResult, Material
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.exits import sweep_speeds, try_speeds
from lissom.evaluate.figures import ExitSetting
from lissom.evaluate.variant import timed_batches
from lissom.export.config import ExportParams
from lissom.export.exported import ExportRecord
from lissom.export.onnx import FULL_DEPTH, export_onnx, set_speed
from lissom.export.onnx_file import OnnxFile
from lissom.export.parity import check_parity
from lissom.models.flops import flops_by_depth
from lissom.training.config import TrainingParams

DATA = ("trec6", "sst2")
UPDATES = 300
EXITS = ("fastbert", "fastbert, equal updates", "fastbert, KL as printed", "fastbert, KL as printed, equal updates")
"""Recipes whose students may leave early, which are exported and timed."""

_SPEEDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.65, 0.8)
_LOSS = 0.005
"""What a model with exits may lose to itself at full depth, on dev: half a point."""

NOTES = (
    f"about {UPDATES} updates of {BATCH} texts for a student that starts from a trained network, four times as many for one "
    "that knows nothing at its start (random, tinybert, mobilebert, lstm) and for exits: compare rows of equal `updates`",
    "teacher_percent: the accuracy of the row's own teacher, of the same seed",
    "labelled texts only, no teacher: without the transfer texts, of which TREC-6 has none. On SST-2 most texts of the other "
    "rows are unlabelled phrases, so that their hard labels weigh less",
    "base start: born_again of one generation is the student of `logits`, with initial weights of the base model in place of "
    "the fine-tuned teacher's",
    "copied students have blocks 0, 2 and 5; tinybert has 3 x 192 x 600; deep_to_shallow and fastbert all 6 blocks",
    "fastbert leaves early at the speed that loses at most half a point on dev to its own full depth; loss_points is that on "
    "test. flops_ratio and speedup are over the plain backbone, which has no exits, in one timing session on one pinned core; "
    "over_own_full_depth counts against the network with all its exits, which nobody would run",
    "fastbert, KL as printed: KL(exit || last), the paper's direction; the others take that of its released code. Its first row, "
    "with equal updates, is of 29b2d2f; a row with four times the updates stood in this script from 4b2dff8 to 98f349d, and no "
    "figure of it was kept",
    "old rows with several runs are means that were recorded without their parts; their flops_ratio and speedup count against the network "
    "with all its exits",
    "seconds and Wh are of the training; compare those of one machine only. Wh of 2026-11-30 are a model: the processor's assumed "
    "power times the CPU time",
)


def main() -> None:
    """Measure the rows that are named, or all; each is written as soon as it is measured."""
    options = parser(__doc__)
    options.add_argument(
        "methods", nargs="*", metavar="METHOD", help="a key of benchmarks/distillation.yaml; all if none is named"
    )
    options.add_argument("--data", choices=DATA, action="append", help="all if none is named")
    options.add_argument("--device", choices=("cpu", "cuda"), help="cuda if there is one")
    options.add_argument(
        "--base", help="where the base model is (dir:FOLDER), if the package that carries it is not installed"
    )
    arguments = options.parse_args()
    choose_device(arguments.device)
    unknown = [name for name in arguments.methods if name not in recipes()]
    if unknown:
        sys.exit(f"no recipe for {', '.join(unknown)}; there are: {'; '.join(recipes())}")
    folder, updates = folder_of(arguments), 4 if arguments.rehearse else UPDATES
    for data, name in product(arguments.data or DATA, arguments.methods or recipes()):
        teacher = teacher_of(data, arguments.seed, base=arguments.base, rehearse=arguments.rehearse)
        further = measure_exits if name in EXITS else None
        figures = measure(teacher, name, updates, arguments.seed, further)
        record(BENCHMARK, {"data": data, "method": name}, arguments.seed, figures, data=teacher.data, folder=folder)


def choose_device(device: str | None) -> None:
    """Make the library use a device; end with a message if it is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no CUDA device; leave --device away to use the processor")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the library takes the device that torch finds


def settings(key: Key) -> Any:
    """Return what a row depends on besides code: its recipe and its teacher's params."""
    return {"recipe": recipes()[key["method"]], "teacher": params_of(key["data"])}


def claims(rows: Rows) -> dict[str, dict[str, Any]]:
    """Return effects: differences of two methods with the same teacher, data and seed, averaged over the data sets."""

    def accuracy(data: str, method: str) -> PerSeed:
        return rows.take("accuracy_percent", data=data, method=method)

    def gain(better: str, worse: str, bar: str = ">= 0") -> dict[str, Any]:
        return claim([paired(sub, accuracy(data, better), accuracy(data, worse)) for data in DATA], "points", bar)

    def exits(figure: str, unit: str, bar: str, method: str = "fastbert") -> dict[str, Any]:
        return claim([rows.take(figure, data=data, method=method) for data in DATA], unit, bar)

    return {
        "kd_gain_points": gain("logits", "no teacher"),
        "kd_gain_labelled_points": gain("logits, labelled texts only", "no teacher"),
        "kd_gain_base_start_points": gain("born_again", "base start, no teacher"),
        "kd_gain_base_start_labelled_points": gain("base start, logits, labelled texts only", "base start, no teacher"),
        "kd_gain_random_start_points": gain("random start, logits", "random start, no teacher"),
        "kd_gain_random_start_labelled_points": gain(
            "random start, logits, labelled texts only", "random start, no teacher"
        ),
        "tinybert_attention_gain_points": gain("tinybert", "tinybert without attention"),
        "tinybert_layers_gain_points": gain("tinybert", "tinybert without hidden and attention"),
        "pkd_minus_kd_points": gain("patient, skip", "logits"),
        "lstm_gain_points": gain("lstm", "lstm, no teacher", ">= 2"),
        "mutual_gain_points": gain("mutual", "two peers, alone"),
        "fastbert_flops_ratio": exits("flops_ratio", "x", ">= 3"),
        "fastbert_speedup_measured": exits("speedup", "x", ">= 1"),
        "fastbert_loss_points": exits("loss_points", "points", "<= 0.5"),
        "fastbert_equal_updates_flops_ratio": exits("flops_ratio", "x", ">= 3", "fastbert, equal updates"),
        "fastbert_as_printed_flops_ratio": exits("flops_ratio", "x", ">= 3", "fastbert, KL as printed"),
        "fastbert_as_printed_loss_points": exits("loss_points", "points", "<= 0.5", "fastbert, KL as printed"),
    }


def measure_exits(student: DistillationResult, material: Material, test: Material, folder: Path) -> dict[str, Any]:
    """Export, choose the speed on dev, and return figures on test over the plain backbone: the teacher's own network."""
    for model in (student.model, material.teacher):
        model.network.cpu()  # files are made and run there
    early, plain = folder / "early", folder / "plain"
    for target in (early, plain):
        target.mkdir()
    exported, dev = export_onnx(student.model, early), material.encode(student.model, "dev")
    params = ExportParams(speeds=_SPEEDS, max_speed_drop=_LOSS)
    full = material.scorer(student.model, TrainingParams(precision="float32"))()
    speed, tried = try_speeds(student.model, early, dev, full, params)
    set_speed(early, speed)
    record = ExportRecord(
        format="onnx", files=dict(exported.files), integer_kernels=0, tried_speeds=tuple(tried),
        parity=check_parity(student.model, exported, dev, params),
    )  # fmt: skip
    write_json(early / EXPORT_RECORD, record.model_dump(mode="json"))
    test_data = test.encode(student.model, "dev")
    sweep = sweep_speeds(student.model, early, test_data, EvaluateParams(seconds=0.1, retries=0))
    whole, chosen = _setting(sweep.settings, FULL_DEPTH), _setting(sweep.settings, sweep.chosen)
    export_onnx(material.teacher, plain)
    flops = flops_by_depth(material.teacher.network, np.unique(test_data.lengths).tolist())
    backbone = float(np.mean([flops[int(length)][-1] for length in test_data.lengths]))
    batches = timed_batches(test_data, 1, student.model.pad_id)
    times = time_in_turn(
        lambda threads: {
            "plain": OnnxFile(plain).runner(batches, threads),
            "whole": OnnxFile(early, speed=FULL_DEPTH).runner(batches, threads),
            "chosen": OnnxFile(early, speed=speed).runner(batches, threads),
        },
        [1] * len(batches), setting=PINNED, seconds=20.0,
    )  # fmt: skip
    mean_ms = {name: times.latency(name).mean for name in times.seconds}
    return {
        "speed": chosen.speed,
        "mean_depth": chosen.mean_depth,
        "loss_points": 100 * (whole.score - chosen.score),
        "flops_ratio": backbone / chosen.flops,
        "speedup": mean_ms["plain"] / mean_ms["chosen"],
        "flops_ratio_over_own_full_depth": chosen.flops_ratio,
        "speedup_over_own_full_depth": mean_ms["whole"] / mean_ms["chosen"],
        "disturbed": float(times.conditions.disturbed is not None),
    }


def _setting(settings: Iterable[ExitSetting], speed: float) -> ExitSetting:
    return next(item for item in settings if item.speed == speed)


BENCHMARK = Benchmark(
    "distillation", ("data", "method"), claims, NOTES, settings=settings, tables="data", timed=("speedup",),
    # Nothing of the others is exported or timed.
    parts_by="method", parts={name: "distilling" for name in recipes() if name not in EXITS},
)  # fmt: skip

if __name__ == "__main__":
    torch.manual_seed(0)
    main()
