"""Plain int8 files of the teacher: dynamic quantisation without training, which a compressed model must beat.

Two of them, since neither is always the faster one: torch's exporter and one call of onnxruntime's `quantize_dynamic`,
as most people do it, and the same call on lissom's own graph, whose attention is fused. Of an encoder-decoder there is
only the second one: torch's exporter does not make graphs that write with a cache.
"""

import copy
import logging
import shutil
from pathlib import Path

import onnx

from lissom.artifacts import ONNX, SERVING, TOKENIZER, read_json
from lissom.export import graph_file
from lissom.export.exported import Exported, open_exported
from lissom.export.graph_file import files_of, size_of
from lissom.export.onnx import write_plain_graph, write_serving
from lissom.models.compressed import CompressedModel
from lissom.serving.folder import DECODER

BASELINES = "baselines"
"""Folder inside the teacher's exported folder."""
PLAIN_INT8, FUSED_INT8 = "plain_int8", "fused_int8"


def write_baselines(teacher: CompressedModel, exported: Path) -> None:
    """Write the files into folders inside the teacher's exported folder."""
    for name in (PLAIN_INT8, FUSED_INT8):
        if name == PLAIN_INT8 and teacher.manifest.task.writes_texts:
            continue
        folder = exported / BASELINES / name
        folder.mkdir(parents=True)
        shutil.copy(exported / TOKENIZER, folder / TOKENIZER)
        if name == PLAIN_INT8:
            write_plain_int8(teacher, folder / ONNX)
        else:
            for graph in (ONNX, DECODER):
                if (exported / graph).exists():
                    quantize_graph(exported / graph, folder / graph)
        write_serving(folder, read_json(exported / SERVING))


def open_baselines(exported: Path) -> dict[str, Exported]:
    """Open the files that `write_baselines` wrote, by name."""
    folders = {name: exported / BASELINES / name for name in (PLAIN_INT8, FUSED_INT8)}
    return {name: open_exported(folder) for name, folder in folders.items() if folder.exists()}


def write_plain_int8(teacher: CompressedModel, target: Path) -> None:
    """Write the graph of torch's exporter, dynamically quantised."""
    plain = target.with_name("plain_float.onnx")
    write_plain_graph(copy.deepcopy(teacher.network).eval(), plain, teacher.manifest.task.max_length)
    quantize_graph(plain, target)
    for path in files_of(plain):
        path.unlink()


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
        large = size_of(graph) > graph_file.LARGEST
        quantize_dynamic(
            graph, target, weight_type=QuantType.QInt8, extra_options=options, use_external_data_format=large
        )  # fmt: skip
    finally:
        root.setLevel(level)
