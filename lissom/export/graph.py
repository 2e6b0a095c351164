"""Tidying an exported graph: what a small model would otherwise pay at every call, counted in kernels.

The network views its projections as heads and the attention kernel wants them joined again; the exporter keeps both
reshapes, with shapes that are computed at run time. Products of the same input become one.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

Shape = tuple[str | int, ...]


def tidy(graph: GraphProto) -> None:
    """Remove debug notes, round trips of shape, and whatever nothing uses any more; in place."""
    for node in graph.node:  # the exporter notes stack traces, with paths of this machine, at every node
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        value.ClearField("metadata_props")
    del graph.metadata_props[:]
    _cancel_round_trips(graph)
    _join_products(graph)
    _drop_unused(graph)


def _cancel_round_trips(graph: GraphProto) -> None:
    """Replace every tensor that is an earlier one, reshaped and transposed back and forth, by the earlier one."""
    producers = {name: node for node in graph.node for name in node.output}
    shapes = {value.name: shape for value in (*graph.value_info, *graph.input) if (shape := _shape(value)) is not None}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Reshape":
            source = _origin(node, producers, shapes)
            if source is not None:
                same[node.output[0]] = source
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]


def _origin(node: NodeProto, producers: dict[str, NodeProto], shapes: dict[str, Shape]) -> str | None:
    """Return the farthest tensor above a Reshape that equals its output: same shape, same order of elements."""
    wanted, found = shapes.get(node.output[0]), None
    turned: Sequence[int] = ()  # a permutation that has yet to be undone further up
    current: NodeProto | None = node
    while wanted is not None and current is not None and current.op_type in ("Reshape", "Transpose"):
        if current.op_type == "Transpose":
            permutation = next(list(attribute.ints) for attribute in current.attribute if attribute.name == "perm")
            if turned and [turned[place] for place in permutation] != sorted(turned):
                break
            turned = () if turned else permutation
        elif turned:
            break
        name = current.input[0]
        if not turned and shapes.get(name) == wanted:
            found = name
        current = producers.get(name)
    return found


def _join_products(graph: GraphProto) -> None:
    """Make one integer product of those that read the same quantised tensor: query, key and value."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    groups: dict[tuple[str, bytes, bytes, int], list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            scale, zero_point = (numpy_helper.to_array(values[node.input[place]]).tobytes() for place in (2, 4))
            source = producers[node.input[0]].input[0]
            groups.setdefault((source, scale, zero_point, len(node.input)), []).append(node)
    for first, *others in groups.values():
        if not others:
            continue
        parts = [first, *others]
        name = f"{first.output[0]}_joined"
        inputs = list(first.input)
        widths = [numpy_helper.to_array(values[node.input[3]]).size for node in parts]
        for place in [1, 3, *range(5, len(inputs))]:  # weight [in, out], its scales, its zero points, the bias
            joined = np.concatenate([numpy_helper.to_array(values[node.input[place]]) for node in parts], axis=-1)
            inputs[place] = f"{name}_{place}"
            graph.initializer.append(numpy_helper.from_array(joined, inputs[place]))
        sizes = numpy_helper.from_array(np.asarray(widths, dtype=np.int64), f"{name}_sizes")
        graph.initializer.append(sizes)
        outputs = [node.output[0] for node in parts]
        product = helper.make_node(first.op_type, inputs, [name], domain=first.domain)
        split = helper.make_node("Split", [name, sizes.name], outputs, axis=-1)
        place = list(graph.node).index(first)
        for node in parts:
            graph.node.remove(node)
        graph.node.insert(place, product)
        graph.node.insert(place + 1, split)


def _drop_unused(graph: GraphProto) -> None:
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # nodes are in topological order
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for values in (graph.initializer, graph.value_info):
        used = [value for value in values if value.name in needed]
        del values[:]
        values.extend(used)


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    dims = value.type.tensor_type.shape.dim
    shape = tuple(dim.dim_param or dim.dim_value for dim in dims)
    return shape if all(shape) else None
