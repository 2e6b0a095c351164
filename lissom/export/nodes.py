"""Who writes and who reads the tensors of a graph."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that writes a tensor, by name."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read a tensor, also within the body of a loop, by name."""
    result: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in reads(node):
            result.setdefault(name, []).append(node)
    return result


def reads(node: NodeProto) -> Iterator[str]:
    """Yield the names of a node's inputs, and of what its bodies read, including tensors of their own."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from reads(inner)
        yield from (value.name for value in body.output)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node runs: of a loop, or of the branches of a condition."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the graph's initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def array(tensor: TensorProto) -> NDArray[Any]:
    """Return the values of an initializer."""
    result: NDArray[Any] = numpy_helper.to_array(tensor)
    return result


def integer(node: NodeProto, name: str, default: int = 0) -> int:
    """Return an attribute; nodes leave out those that have the operator's default."""
    return next((int(each.i) for each in node.attribute if each.name == name), default)
