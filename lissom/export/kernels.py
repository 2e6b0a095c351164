"""Counting the kernels that onnxruntime runs, to check that a quantised model uses integer products."""

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime

INTEGER_KERNELS = (
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "QLinearMatMul",
    "QGemm",
    "DynamicQuantizeMatMul",
    "QAttention",
)


def integer_kernels(path: Path) -> int:
    """Count the matrix products that onnxruntime computes with integers on this machine."""
    kernels = count_kernels(path)
    return sum(kernels[name] for name in INTEGER_KERNELS)


def count_kernels(path: Path) -> "collections.Counter[str]":
    """Count the kernels by name that onnxruntime would run on this machine, after its own optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # Large graphs need a file of tensors; the nodes are all that is read.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "tensors.data")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return collections.Counter(
            _kernels(onnx.load(options.optimized_model_filepath, load_external_data=False).graph)
        )


def _kernels(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the operator of every node, including nodes of subgraphs."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _kernels(attribute.g)
