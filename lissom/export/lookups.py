"""Fewer kernels for the sum of word, segment and position vectors that a network begins with."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from lissom.export.nodes import array, constants, producers, readers


def simplify_lookups(graph: GraphProto) -> None:
    """Look up quantised rows, cut positions off their table, and add three vectors at once; in place."""
    _look_up_quantised(graph)
    _cut_positions(graph)
    _add_at_once(graph)


def _look_up_quantised(graph: GraphProto) -> None:
    """Quantise a table of int8 rows for the product that reads them, once and for all.

    Rows are looked up, multiplied by their scales, divided if they are smoothed, and quantised with a fixed scale: the
    same for every call.
    """
    written_by, values = producers(graph), constants(graph)
    for node in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        product, divisors = written_by.get(node.input[0]), np.ones(1, dtype=np.float32)
        if product is not None and product.op_type == "Div" and product.input[1] in values:
            divisors = array(values[product.input[1]])
            product = written_by.get(product.input[0])
        if product is None or product.op_type != "Mul" or not {*node.input[1:]} <= values.keys():
            continue
        cast, scales = (written_by.get(name) for name in product.input)
        rows = written_by.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
        if rows is None or scales is None or {rows.op_type, scales.op_type} != {"Gather"}:
            continue
        if rows.input[1] != scales.input[1] or not {rows.input[0], scales.input[0]} <= values.keys():
            continue
        integers = array(values[rows.input[0]])
        if integers.dtype != np.int8:
            continue
        name, nodes = f"{rows.input[0]}_quantised", list[NodeProto]()
        if np.abs(integers).max(initial=0) < 8:  # packed in the file: the session computes the table when it starts
            graph.initializer.append(numpy_helper.from_array(divisors, f"{name}_divisors"))
            nodes = _quantising(name, rows.input[0], scales.input[0], node)
        else:
            table = _quantised(integers.astype(np.float32) * array(values[scales.input[0]]) / divisors, node, values)
            graph.initializer.append(numpy_helper.from_array(table, name))
        nodes.append(helper.make_node("Gather", [name, rows.input[1]], [node.output[0]], name=node.name))
        place = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, new in enumerate(nodes):
            graph.node.insert(place + offset, new)


def _quantising(table: str, rows: str, scales: str, quantiser: NodeProto) -> list[NodeProto]:
    """Return the nodes, of constants alone, that compute a quantised table."""
    return [
        helper.make_node("Cast", [rows], [f"{table}_floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{table}_floats", scales], [f"{table}_scaled"]),
        helper.make_node("Div", [f"{table}_scaled", f"{table}_divisors"], [f"{table}_divided"]),
        helper.make_node("QuantizeLinear", [f"{table}_divided", *quantiser.input[1:]], [table]),
    ]


def _quantised(table: NDArray[np.float32], node: NodeProto, values: Mapping[str, TensorProto]) -> NDArray[np.uint8]:
    """Return what `QuantizeLinear` makes of a table: rounded half to even, saturated."""
    scale, zero_point = (array(values[name]) for name in node.input[1:])
    limits = np.iinfo(zero_point.dtype)
    rounded = np.rint(table / scale) + zero_point.astype(np.float32)
    result: NDArray[np.uint8] = rounded.clip(limits.min, limits.max).astype(zero_point.dtype)
    return result


def _cut_positions(graph: GraphProto) -> None:
    """Take the first rows of a table where numbers 0, 1, 2, ... would be cut off and looked up."""
    written_by, values, read_by = producers(graph), constants(graph), readers(graph)
    for node in [node for node in graph.node if node.op_type == "Gather"]:
        if any(reader.op_type not in ("Add", "Sum") for reader in read_by.get(node.output[0], [])):
            continue  # sums alone broadcast `[n, d]` as they do `[1, n, d]`
        cut = written_by.get(node.input[1])
        if (
            node.output[0] not in read_by
            or cut is None
            or cut.op_type != "Slice"
            or not {node.input[0], cut.input[0], *cut.input[3:]} <= values.keys()
        ):
            continue
        numbers, table = array(values[cut.input[0]]), values[node.input[0]]
        axes = array(values[cut.input[3]]).tolist() if len(cut.input) > 3 else []
        if axes != [1] or numbers.shape[:-1] != (1,) or any(attribute.i for attribute in node.attribute):
            continue
        if not np.array_equal(numbers[0][: table.dims[0]], np.arange(table.dims[0])):
            continue
        axis = f"{node.output[0]}_axis"
        graph.initializer.append(numpy_helper.from_array(np.asarray([0], dtype=np.int64), axis))
        inputs = [node.input[0], *cut.input[1:3], axis, *cut.input[4:]]
        place = list(graph.node).index(node)
        graph.node.insert(place, helper.make_node("Slice", inputs, [f"{node.output[0]}_rows"], name=node.name))
        graph.node.remove(node)
        for reader in read_by[node.output[0]]:
            reader.input[:] = [f"{name}_rows" if name == node.output[0] else name for name in reader.input]


def _add_at_once(graph: GraphProto) -> None:
    """Add the terms of a sum that only another `Sum` reads there."""
    read_by = readers(graph)
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Add"]:
        found = read_by.get(node.output[0], [])
        if len(found) != 1 or found[0].op_type != "Sum" or node.output[0] in outputs:
            continue
        terms = [name for name in found[0].input if name != node.output[0]]
        if len(terms) == len(found[0].input) - 1:
            found[0].input[:] = [*node.input, *terms]
            graph.node.remove(node)
