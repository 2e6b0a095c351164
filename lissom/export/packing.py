"""Packing the int8 tensors of a graph whose values fit into 1 to 4 bits.

The graph unpacks them by looking up what every byte means. All its inputs are constants, so that onnxruntime computes
the int8 tensor once, when a session starts: the file is smaller, the kernels and the answers are the same.
"""

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lissom.models.packing import PLANES, Plane, narrowest, pack, pack_unsigned

_SMALLEST = 256  # bytes below which nothing is gained


def pack_integers(graph: GraphProto) -> None:
    """Replace int8 initializers by packed ones and the nodes that unpack them, in place."""
    nodes: list[NodeProto] = []
    tensors: dict[str, TensorProto] = {}
    for tensor in [t for t in graph.initializer if t.data_type == TensorProto.INT8 and np.prod(t.dims) >= _SMALLEST]:
        integers = numpy_helper.to_array(tensor)
        bits = narrowest(integers)
        if bits in PLANES:
            graph.initializer.remove(tensor)
            nodes += _unpacking(tensor.name, integers, bits, tensors)
    graph.initializer.extend(tensors.values())
    for node in reversed(nodes):
        graph.node.insert(0, node)


def pack_operands(graph: GraphProto) -> None:
    """Pack the weights of every `MatMulNBits`, which the network gives as int8 `[out, in]`, in place.

    The kernel takes unsigned integers, `[out, groups, bytes]`, and zero points, `[out, bytes]`.
    """
    values = {tensor.name: tensor for tensor in graph.initializer}
    packed_already: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMulNBits" or node.input[1] in packed_already:  # products may share a weight
            continue
        packed_already.add(node.input[1])
        bits, group = (next(a.i for a in node.attribute if a.name == name) for name in ("bits", "block_size"))
        weight, zeros = (numpy_helper.to_array(values[node.input[place]]) for place in (1, 3))
        per_byte = 8 // bits
        filled = np.pad(zeros, ((0, 0), (0, -zeros.shape[1] % per_byte)))
        for place, integers, shape in (
            (1, weight, (len(weight), -1, group * bits // 8)),
            (3, filled, (len(zeros), -1)),
        ):
            packed = pack_unsigned(integers, bits).reshape(shape)
            values[node.input[place]].CopyFrom(numpy_helper.from_array(packed, node.input[place]))


def _unpacking(
    name: str, integers: np.ndarray[tuple[int, ...], np.dtype[np.int8]], bits: int, tensors: dict[str, TensorProto]
) -> list[NodeProto]:
    """Return the nodes that give a tensor; what they need is added to `tensors`."""
    nodes, parts = [], []
    for number, (plane, packed) in enumerate(zip(PLANES[bits], pack(integers, bits), strict=True)):
        part = f"{name}_bits_{number}"
        tensors[f"{part}_packed"] = numpy_helper.from_array(packed, f"{part}_packed")
        nodes += [
            helper.make_node("Cast", [f"{part}_packed"], [f"{part}_index"], to=TensorProto.INT32),  # as Gather wants it
            helper.make_node("Gather", [_table(plane, tensors), f"{part}_index"], [f"{part}_values"]),
            _reshape(f"{part}_values", f"{part}_flat", [-1], tensors),
            _first(f"{part}_flat", f"{part}_cut", integers.size, tensors),
        ]
        parts.append(f"{part}_cut")
    if len(parts) > 1:
        nodes.append(helper.make_node("BitwiseOr", parts, [f"{name}_flat"]))
        parts = [f"{name}_flat"]
    return [*nodes, _reshape(parts[0], name, list(integers.shape), tensors)]


def _table(plane: Plane, tensors: dict[str, TensorProto]) -> str:
    """Return the name of the table of what bytes mean, one for all tensors."""
    kind = "high" if plane.shift else "signed" if min(plane.values) < 0 else "low"
    name = f"meanings_{plane.bits}_{kind}"
    tensors.setdefault(name, numpy_helper.from_array(plane.meanings, name))
    return name


def _reshape(source: str, target: str, shape: list[int], tensors: dict[str, TensorProto]) -> NodeProto:
    tensors[f"{target}_shape"] = numpy_helper.from_array(np.asarray(shape, dtype=np.int64), f"{target}_shape")
    return helper.make_node("Reshape", [source, f"{target}_shape"], [target])


def _first(source: str, target: str, count: int, tensors: dict[str, TensorProto]) -> NodeProto:
    """Return the node that cuts off what fills the last byte."""
    for part, value in (("start", 0), ("end", count)):
        tensors[f"{target}_{part}"] = numpy_helper.from_array(np.asarray([value], dtype=np.int64), f"{target}_{part}")
    return helper.make_node("Slice", [source, f"{target}_start", f"{target}_end"], [target])
