"""The headline: the whole pipeline on SST-2, TREC-6 and AG News, from a fine-tuned MiniLM to the final int8 file.

    python -m benchmarks.headline [sst2 trec6 ag_news]

Latency is measured once more at the end, in one process: eager fp32 teacher, its ONNX file, its plain dynamic int8
export (torch's exporter, quantize_dynamic), the same on lissom's graph with fused attention, and the final artefact
in turn, batch 1, all threads, on the test texts.
"""

import gzip
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import FOLDER, claim, write_result
from benchmarks.workspace import ROOT, open_workspace, reproduce, require_data
from lissom.artifacts import LEDGER_JSON, ONNX, SERVING, TOKENIZER, read_json, write_text
from lissom.data.prepare import load_table
from lissom.evaluate.latency import Latency, measure_latency
from lissom.evaluate.plain_int8 import plain_int8, quantize_graph
from lissom.evaluate.variant import eager_runner, timed_batches
from lissom.export.onnx_file import OnnxFile
from lissom.models.compressed import CompressedModel
from lissom.models.directory import load
from lissom.report.ledger import Ledger, eager_milliseconds, read_evaluations
from lissom.report.plots import pareto

SETS = {"sst2": "sst2_sentences", "trec6": "trec6", "ag_news": "ag_news_subset"}

_FEWEST_WORDS = 5
_AG_NEWS_TEST = 2000  # of 7,600 rows, and 2,800 of 8,988 train rows: what a quarter of an hour on two cores allows
_SECONDS = 30.0
_SAMPLES = 1200


def main() -> None:
    """Run the pipelines that are named (all by default) and write the result of all that have been run."""
    names = sys.argv[1:] or list(SETS)
    for name in names:
        folder = open_workspace(name, ROOT / "benchmarks" / "params" / f"{name}.yaml")
        _write_data(name, folder / "data")
        reproduce(folder, "report")
    rows: list[dict[str, Any]] = []
    claims: dict[str, Any] = {}
    notes = []
    for name in SETS:
        folder = ROOT / "benchmarks" / "work" / name
        if not (folder / "artifacts" / "report" / LEDGER_JSON).is_file():
            continue
        ledger = Ledger.model_validate(read_json(folder / "artifacts" / "report" / LEDGER_JSON))
        times = _time_together(folder)
        rows += _rows(name, ledger, times)
        floor = ledger.strongest_floor
        assert floor is not None
        kept, eager = ledger.headline.score_kept, times["teacher, eager"].p50
        if name == "sst2":
            claims = {
                "teacher_accuracy": claim(ledger.rows[0].score * 100, "%", ">= 88.5"),
                "accuracy_kept": claim(kept * 100, "%", ">= 98"),
                "speedup_eager_b1": claim(eager / times["final"].p50, "x", ">= 12"),
                "speedup_plain_int8_b1": claim(times["teacher, plain int8"].p50 / times["final"].p50, "x", ">= 3"),
                "megabytes": claim(ledger.rows[-1].megabytes, "MB", "<= 4.5"),
            }
            teacher = read_evaluations(folder / "metrics" / "evaluate", ["teacher"])["teacher"]
            write_text(FOLDER / "headline.svg", pareto(ledger, eager_milliseconds(teacher)))
        short = "" if kept >= 0.98 else " (short of 98 %)"
        notes.append(
            f"{name}: {kept:.1%} of the teacher's accuracy kept{short}, {eager / times['final'].p50:.1f}x faster, "
            f"{ledger.headline.times_smaller:.1f}x smaller; strongest floor {floor.model}, {floor.score:.1%}"
        )
    if any(row["data"] == "ag_news" for row in rows):
        notes.append(
            f"ag_news: 2,800 of 8,988 train rows and the first {_AG_NEWS_TEST:,} of 7,600 test rows, to fit the time"
        )
    write_result("headline", rows, claims, seeds=[0], notes=notes)


def _write_data(name: str, folder: Path) -> None:
    source = require_data(SETS[name])
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        # The sentences' own dev and test have damaged accents; the phrases' folder has the same rows intact.
        origin = require_data("sst2") if name == "sst2" and split != "train" else source
        actual = next(path for path in origin.glob(f"{split}.tsv*"))
        data = gzip.decompress(actual.read_bytes()) if actual.suffix == ".gz" else actual.read_bytes()
        if name == "ag_news" and split == "test":
            data = b"".join(data.splitlines(keepends=True)[: 1 + _AG_NEWS_TEST])
        (folder / f"{split}.tsv").write_bytes(data)
    if name == "sst2":
        lines = (require_data("sst2") / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
        held_out = {
            _text(line) for split in ("dev", "test") for line in (folder / f"{split}.tsv").read_text().splitlines()
        }
        texts = {text for text in map(_text, lines) if len(text.split()) >= _FEWEST_WORDS} - held_out
        shuffled = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
        ordered = sorted(texts)
        (folder / "phrases.tsv").write_text("text\n" + "".join(f"{ordered[index]}\n" for index in shuffled))


def _text(line: str) -> str:
    return line.partition("\t")[2].strip()


def _time_together(folder: Path) -> dict[str, Latency]:
    exports = folder / "artifacts" / "export"
    teacher, final = load(folder / "artifacts" / "teacher"), load(folder / "artifacts" / "quantize")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        plain, fused = Path(scratch) / "plain", Path(scratch) / "fused"
        for target in (plain, fused):
            target.mkdir()
            for file in (TOKENIZER, SERVING):
                shutil.copy(exports / "teacher" / file, target)
        plain_int8(teacher, plain / ONNX)
        quantize_graph(exports / "teacher" / ONNX, fused / ONNX)
        batches = {
            model.manifest.edits: _batches(model, folder, Path(scratch) / str(len(model.manifest.edits)))
            for model in (teacher, final)
        }
        whole, trimmed = batches[teacher.manifest.edits], batches[final.manifest.edits]
        runners = {
            "teacher, eager": eager_runner(teacher, whole),
            "teacher, ONNX fp32": OnnxFile(exports / "teacher").runner(whole, threads),
            "teacher, plain int8": OnnxFile(plain).runner(whole, threads),
            "teacher, int8 on lissom's graph": OnnxFile(fused).runner(whole, threads),
            "final": OnnxFile(exports / "quantize").runner(trimmed, threads),
        }
        return measure_latency(runners, len(whole), 1, _SAMPLES, _SECONDS)


def _batches(model: CompressedModel, folder: Path, scratch: Path) -> list[Any]:
    task = model.manifest.task
    test = load_table(folder / "artifacts" / "prepare", "test")
    return timed_batches(task.encode([test], model.tokenizer, scratch), 1, model.pad_id)


def _rows(name: str, ledger: Ledger, times: dict[str, Latency]) -> list[dict[str, Any]]:
    eager, plain = times["teacher, eager"].p50, ledger.plain_int8
    steps = {row.step: row for row in ledger.rows}

    def row(
        variant: str, accuracy: float, megabytes: float | None, latency: Latency | None, faster: float
    ) -> dict[str, Any]:
        return {
            "data": name,
            "variant": variant,
            "accuracy_percent": accuracy * 100,
            "p50_ms": None if latency is None else latency.p50,
            "p95_ms": None if latency is None else latency.p95,
            "faster_than_eager": faster,
            "megabytes": megabytes,
        }

    first, last = steps["teacher"], steps["quantize"]
    rows = [
        row("teacher, eager fp32", first.score, first.megabytes, times["teacher, eager"], 1.0),
        row(
            "teacher, ONNX fp32",
            first.score,
            first.megabytes,
            times["teacher, ONNX fp32"],
            eager / times["teacher, ONNX fp32"].p50,
        ),
        row(
            "teacher, plain dynamic int8",
            plain.quality.score,
            plain.megabytes,
            times["teacher, plain int8"],
            eager / times["teacher, plain int8"].p50,
        ),
    ]
    fused = times["teacher, int8 on lissom's graph"]
    rows.append(
        {
            "data": name,
            "variant": "teacher, dynamic int8 on lissom's graph",
            "p50_ms": fused.p50,
            "p95_ms": fused.p95,
            "faster_than_eager": eager / fused.p50,
        }
    )
    rows += [
        row(f"after {step}", steps[step].score, steps[step].megabytes, None, steps[step].speedup)
        for step in ("distill", "prune", "factorize")
    ]
    rows.append(row("final (quantize)", last.score, last.megabytes, times["final"], eager / times["final"].p50))
    rows += [
        {
            "data": name,
            "variant": f"floor, {floor.model}",
            "accuracy_percent": floor.score * 100,
            "megabytes": floor.megabytes,
        }
        for floor in ledger.floors
    ]
    return rows


if __name__ == "__main__":
    main()
