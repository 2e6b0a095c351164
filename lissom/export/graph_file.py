"""Files of ONNX graphs: protobuf holds at most 2 GB, so that the tensors of larger graphs lie in a file beside."""

from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto

from lissom.export.nodes import bodies
from lissom.storage import naming, write_durably

LARGEST = 1_900_000_000
"""Bytes of a graph that is one file."""


def data_file(path: Path) -> Path:
    """Return the path of the file that holds the tensors of a large graph."""
    return path.with_name(f"{path.name}.data")


def files_of(path: Path) -> list[Path]:
    """Return the files of a graph that exist: the graph, and for a large one its tensors."""
    return [path, *([data_file(path)] if data_file(path).is_file() else [])]


def save_graph(model: ModelProto, path: Path) -> None:
    """Write a graph, its tensors into a file beside it if it is large."""
    data_file(path).unlink(missing_ok=True)
    if size_of(model) <= LARGEST:
        write_durably(path, model.SerializeToString())
        return
    with naming(path):
        onnx.save(model, path, save_as_external_data=True, location=data_file(path).name, size_threshold=1024)


def size_of(model: ModelProto) -> int:
    """Return the bytes of the tensors of a graph, whose own size cannot be asked for if it exceeds 2 GB."""
    return _bytes_of(model.graph)


def _bytes_of(graph: GraphProto) -> int:
    inner = sum(_bytes_of(body) for node in graph.node for body in bodies(node))
    return inner + sum(len(tensor.raw_data) for tensor in graph.initializer)
