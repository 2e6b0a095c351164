"""The dynamic-quantisation baseline: torch's exporter and one call of `quantize_dynamic`, without training."""

import copy
import logging
import shutil
from pathlib import Path

import onnx
import torch

from lissom.artifacts import ONNX, SERVING, TOKENIZER
from lissom.evaluate.config import EvaluateParams
from lissom.evaluate.figures import TEACHER_EAGER, VARIANT, PlainInt8, Setting
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.variant import Subject, eager_runner, timed_batches
from lissom.export.exported import split_logits
from lissom.export.onnx import write_plain_graph
from lissom.export.onnx_file import OnnxFile
from lissom.models.compressed import CompressedModel


def evaluate_plain_int8(teacher: Subject, params: EvaluateParams, scratch: Path) -> PlainInt8:
    """Export the teacher with torch's exporter, quantise it, and measure it like a variant at batch 1."""
    folder = scratch / "plain_int8"
    folder.mkdir()
    for name in (TOKENIZER, SERVING):
        shutil.copy(teacher.exported.folder / name, folder / name)
    plain_int8(teacher.model, folder / ONNX)
    plain, test, task = OnnxFile(folder), teacher.test, teacher.model.manifest.task
    logits, reference = split_logits(plain, test), split_logits(teacher.exported, test)
    threads, batches = torch.get_num_threads(), timed_batches(test, 1, teacher.model.pad_id)
    runners = {VARIANT: plain.runner(batches, threads), TEACHER_EAGER: eager_runner(teacher.model, batches)}
    times = measure_latency(runners, len(batches), 1, params.samples, params.seconds)
    speedup = times[TEACHER_EAGER].p50 / times[VARIANT].p50
    return PlainInt8(
        quality=task.quality(logits, reference, test.targets, params.calibration_bins),
        megabytes=(folder / ONNX).stat().st_size / 1e6,
        setting=Setting(batch_size=1, threads=threads, runners=times, speedup_eager=speedup, speedup_onnx=None),
    )


def plain_int8(teacher: CompressedModel, target: Path) -> None:
    """Write the graph of torch's exporter, dynamically quantised."""
    plain = target.with_name("plain_float.onnx")
    write_plain_graph(copy.deepcopy(teacher.network).eval(), plain, teacher.manifest.task.max_length)
    quantize_graph(plain, target)
    plain.unlink()


def quantize_graph(source: Path, target: Path) -> None:
    """Quantise weights dynamically, embeddings included, with onnxruntime's defaults."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    del graph.graph.value_info[:]  # the exporter's shapes contradict those that quantize_dynamic infers
    # Shape inference does not know the output type of onnxruntime's attention kernel.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # hides advice on preprocessing, which would change nothing here
    try:
        quantize_dynamic(graph, target, weight_type=QuantType.QInt8, extra_options=options)
    finally:
        root.setLevel(level)
